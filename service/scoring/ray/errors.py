"""Why a scoring run cannot go on, in a sentence for whoever started it. Knows no stores, no plans and no Ray."""

from collections.abc import Iterator
from contextlib import contextmanager


class CannotScore(Exception):
    """Nothing to score, nowhere to write to, or a model that fails."""


class StoreError(CannotScore):
    """A folder, file or store that cannot be read or written: its address, and why."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(f"{address}: {reason}")
        self.address = address
        self.reason = reason


@contextmanager
def speaking_of(address: str) -> Iterator[None]:
    """Whatever a store raises within the block, as one error that names the address.

    Each store has errors of its own (botocore's are no OSErrors), so everything is caught.

    Raises:
        StoreError: in place of anything but an error of this module
    """
    try:
        yield
    except CannotScore:
        raise
    except ImportError as error:
        raise StoreError(address, f"{error}; needed on every node") from error
    except FileNotFoundError as error:
        raise StoreError(address, "is not there, or not seen from here") from error
    except PermissionError as error:
        raise StoreError(address, f"no permission ({error.strerror or error})") from error
    except Exception as error:
        raise StoreError(address, f"{type(error).__name__}: {error}") from error
