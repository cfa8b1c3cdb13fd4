"""From settings to an opened session: the one way that every command takes.

Knows which settings a session depends on. Knows nothing of what is done with it.
"""

from pathlib import Path

from service.providers import AskedProvider, batch_sizes
from service.session import OnnxSession, open_session
from service.settings import Settings
from service.threads import cpu_budget
from service.vouching import Voucher


def opened(settings: Settings, provider: AskedProvider | None = None, artefact: Path | None = None) -> OnnxSession:
    """A session as the settings say, or on another provider or with another artefact than they say.

    Raises:
        ArtefactError: the model cannot be used.
        ProviderUnavailable: what was asked for does not work here.
    """
    return open_session(
        artefact or settings.artefact,
        provider=provider or settings.provider,
        intra_op_threads=intra_op_threads(settings),
        batch_sizes=session_batch_sizes(settings),
        engine_cache=settings.engine_cache,
        voucher=voucher(settings),
    )


def voucher(settings: Settings) -> Voucher:
    """Who has to vouch for the files of an artefact."""
    return Voucher(settings.artefact_sha256_file, settings.artefact_public_key, settings.artefact_vouched_only)


def intra_op_threads(settings: Settings) -> int:
    """Threads of one call: what is set, or as many as this process may use CPUs."""
    return settings.intra_op_threads or cpu_budget()


def session_batch_sizes(settings: Settings) -> tuple[int, ...]:
    """The batch sizes that a session is prepared for."""
    return batch_sizes(settings.max_batch_size)
