"""How many examples a property test draws: a quarter in `make test`, all of them in `make test-slow`."""

import os

ALL = os.environ.get("PROPERTY_TESTS") == "full"


def examples(full: int) -> int:
    """The number of examples of this run.

    Args:
        full: the number in `make test-slow`; Hypothesis' own default is 100.
    """
    return full if ALL else max(5, full // 4)
