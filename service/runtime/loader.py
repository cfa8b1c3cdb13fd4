"""From settings to an opened session: the one way that every command takes.

Knows which settings a session depends on. Knows nothing of what is done with it.
"""

import logging
from pathlib import Path

from model.contract import ArtefactError, Manifest
from model.drift.reference import SUFFIX, DriftReference, read_reference
from service.config.settings import ProviderChoice, Settings
from service.runtime.artifact import bundled_artefact
from service.runtime.cpu_quota import cpu_budget
from service.runtime.providers import batch_sizes
from service.runtime.session import OnnxSession, open_session
from service.runtime.signatures import Verifier

_log = logging.getLogger(__name__)


def opened(settings: Settings, provider: ProviderChoice | None = None, artefact: Path | None = None) -> OnnxSession:
    """A session as the settings say, or on another provider or with another artefact than they say.

    Raises:
        ArtefactError: the model cannot be used, or a drift reference is damaged or, where a setting names it, missing.
        ProviderUnavailable: what was asked for does not work here.
    """
    path = artefact or settings.artefact or bundled_artefact()
    session = open_session(
        path,
        provider=provider or settings.provider,
        intra_op_threads=intra_op_threads(settings),
        batch_sizes=session_batch_sizes(settings),
        engine_cache=settings.engine_cache,
        verifier=verifier(settings),
    )
    if settings.drift_window:
        session.drift_reference = _reference(settings, path, session.manifest)
    return session


def _reference(settings: Settings, artefact: Path, manifest: Manifest) -> DriftReference | None:
    """What input drift is measured from: the laboratory's own, or the artefact's; None where neither can be used."""
    own, path = settings.drift_reference, settings.drift_reference or artefact.with_suffix(SUFFIX)
    if own is None and manifest.drift_sha256 is None:
        return None
    try:
        reference = read_reference(path, None if own else manifest.drift_sha256)
        reference.check_is_of(manifest)
    except FileNotFoundError as error:
        if own:
            raise ArtefactError(
                path, "is not there: the drift reference that MARROWLENS_DRIFT_REFERENCE names"
            ) from error
        _log.warning("input drift is not measured: %s is not there", path)
    except ValueError as error:  # a model that takes over while serving has another, or none
        _log.warning("input drift is not measured: %s %s", path, error)
    else:
        return reference
    return None


def verifier(settings: Settings) -> Verifier:
    """Who has to vouch for the files of an artefact."""
    return Verifier(settings.artefact_sha256_file, settings.artefact_public_key, settings.artefact_vouched_only)


def intra_op_threads(settings: Settings) -> int:
    """Threads of one call: what is set, or as many as this process may use CPUs."""
    return settings.intra_op_threads or cpu_budget()


def session_batch_sizes(settings: Settings) -> tuple[int, ...]:
    """The batch sizes that a session is prepared for."""
    return batch_sizes(settings.max_batch_size)
