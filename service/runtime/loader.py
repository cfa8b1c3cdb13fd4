"""From settings to an open session: the options that inference depends on, and the one way to load a model."""

import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from model.contract import ArtefactError, Manifest
from model.drift.reference import SUFFIX, DriftReference, read_reference
from model.trust.site import with_site_trust
from service.config.settings import PrecisionChoice, ProviderChoice, Settings, parse_classes
from service.runtime.artifact import bundled_artefact
from service.runtime.hardware import cpu_budget
from service.runtime.providers import MIXED, batch_sizes
from service.runtime.session import OnnxSession, open_session
from service.runtime.signatures import NO_VERIFICATION, Verifier

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceOptions:
    """The settings that opening a session and classifying with it depend on, under the names of `Settings`."""

    provider: ProviderChoice
    precision: PrecisionChoice
    engine_cache: Path | None
    intra_op_threads: int
    decode_threads: int
    max_image_bytes: int
    max_pixels: int
    max_batch_size: int
    pad_batches: bool | None
    max_queue_delay_ms: float
    max_queue_size: int
    max_run_s: float
    max_failed_runs: int
    shutdown_timeout_s: float
    drift_window: int
    review_classes: str

    @classmethod
    def from_settings(cls, settings: Settings, *, cpus: int | None = None) -> Self:
        """Read the options from settings. Thread counts that are not set become `cpus`, by default the CPU budget."""
        values = {field.name: getattr(settings, field.name) for field in fields(cls)}
        for name in ("intra_op_threads", "decode_threads"):
            values[name] = values[name] or cpus or cpu_budget()
        return cls(**values)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that a session is prepared for, ascending."""
        return batch_sizes(self.max_batch_size)

    def open_session(
        self, artefact: Path, *, provider: ProviderChoice | None = None, verifier: Verifier = NO_VERIFICATION
    ) -> OnnxSession:
        """Open a session with these options, or on another provider; raises as `open_session` does."""
        chosen = provider or self.provider
        return open_session(
            artefact,
            provider=chosen,
            precision=self.precision if chosen in MIXED else "fp32",
            intra_op_threads=self.intra_op_threads,
            batch_sizes=self.batch_sizes,
            engine_cache=self.engine_cache,
            verifier=verifier,
        )


def load_session(
    settings: Settings, provider: ProviderChoice | None = None, artefact: Path | None = None
) -> OnnxSession:
    """Load the configured model, or another artefact, on the configured provider or another one.

    Raises:
        ArtefactError: the model cannot be used, or does not fit `review_classes` or `trust_reference`; or the drift
            reference is damaged, or configured and missing.
        ProviderUnavailable: the requested provider does not work here.
    """
    path = artefact or settings.artefact or bundled_artefact()
    options = InferenceOptions.from_settings(settings)
    session = options.open_session(path, provider=provider, verifier=artefact_verifier(settings))
    session.manifest = in_force(session.manifest, settings)
    check_review_classes(path, session.manifest, settings)
    if settings.drift_window:
        session.drift_reference = _drift_reference(settings, path, session.manifest)
    return session


def in_force(manifest: Manifest, settings: Settings) -> Manifest:
    """The manifest with the laboratory's trust reference, if one is configured.

    Raises:
        ArtefactError: that file is missing, damaged, or of another model.
    """
    return manifest if settings.trust_reference is None else with_site_trust(manifest, settings.trust_reference)


def check_review_classes(artefact: Path, manifest: Manifest, settings: Settings) -> None:
    """Check that a model can review the classes of `review_classes`.

    Raises:
        ArtefactError: it lacks one of them, or has no decisions.
    """
    review = parse_classes(settings.review_classes)
    if unknown := sorted(set(review) - set(manifest.codes)):
        raise ArtefactError(artefact, f"has no class {', '.join(unknown)}, which MARROWLENS_REVIEW_CLASSES names")
    if review and manifest.trust is None:
        raise ArtefactError(artefact, "has no trust reference, which MARROWLENS_REVIEW_CLASSES needs")


def artefact_verifier(settings: Settings) -> Verifier:
    """The verifier that the settings configure."""
    return Verifier(settings.artefact_sha256_file, settings.artefact_public_key, settings.artefact_vouched_only)


def _drift_reference(settings: Settings, artefact: Path, manifest: Manifest) -> DriftReference | None:
    """The configured drift reference, else the artefact's own; None if neither can be used."""
    own, path = settings.drift_reference, settings.drift_reference or artefact.with_suffix(SUFFIX)
    if own is None and manifest.drift_sha256 is None:
        return None
    try:
        reference = read_reference(path, None if own else manifest.drift_sha256)
        reference.check_model(manifest)
    except FileNotFoundError as error:
        if own:
            raise ArtefactError(
                path, "does not exist; MARROWLENS_DRIFT_REFERENCE names it as the drift reference"
            ) from error
        _log.warning("Input drift is not measured: %s does not exist", path)
    except ValueError as error:  # a hot-reloaded model may have another reference, or none
        _log.warning("Input drift is not measured: %s %s", path, error)
    else:
        return reference
    return None
