"""The model that serves, the service's state around it (starting, ready, stopping), and hot reload.

A new model is opened, checked and warmed up beside the current one. Then new requests go to it, while the current one
answers those that it has begun. A new model that is rejected changes nothing.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from model.contract import ArtefactError, CellClass, Manifest
from service.concurrency.supervisor import Supervisor
from service.concurrency.thread_pools import MODEL, TELEMETRY
from service.concurrency.worker import Worker
from service.config.settings import Settings
from service.errors import NotReady, ReloadInProgress, ReloadRejected
from service.inference.classifier import Classifier
from service.inference.drift_files import DriftFiles
from service.inference.drift_window import DriftState
from service.runtime.artifact import bundled_artefact
from service.runtime.loader import InferenceOptions
from service.runtime.session import ProviderUnavailable, Session
from service.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


class Peers(Protocol):
    """The other workers of the service."""

    def ready(self) -> bool:
        """Whether all of them are ready."""

    async def reload(self, name: str | None) -> None:
        """Let all workers, this one too, serve with another model, or none; raises as `ModelRegistry.reload`."""


@dataclass(slots=True, kw_only=True)
class ServingState:
    """The state of one process of the service.

    Attributes:
        worker: the process among several; None if it serves alone.
        leads: whether it runs what only one worker runs.
        classifier: None before the start.
    """

    settings: Settings
    metrics: Metrics
    background: Supervisor
    worker: Worker | None = None
    leads: bool = True
    classifier: Classifier | None = None
    peers: Peers | None = None
    draining: bool = False
    _ends_at_s: float | None = None

    def begin_shutdown(self) -> None:
        """Start the clock of `shutdown_timeout_s`, which all parts of the shutdown share; later calls do nothing."""
        if self._ends_at_s is None:
            self._ends_at_s = time.monotonic() + self.settings.shutdown_timeout_s

    def shutdown_left_s(self) -> float:
        """Seconds left of `shutdown_timeout_s`."""
        if self._ends_at_s is None:
            return self.settings.shutdown_timeout_s
        return max(0.0, self._ends_at_s - time.monotonic())

    def current_classifier(self) -> Classifier:
        """The classifier that serves now.

        Raises:
            NotReady: no model has been loaded.
        """
        if self.classifier is None:
            raise NotReady("the model is not loaded")
        return self.classifier

    def ready(self) -> bool:
        """Whether this process accepts new pictures."""
        return not self.draining and self.classifier is not None and self.classifier.ready()

    def all_ready(self) -> bool:
        """Whether all processes of the service accept new pictures."""
        return self.ready() and (self.peers is None or self.peers.ready())

    def check_ready(self) -> None:
        """Check that all processes of the service accept new pictures.

        Raises:
            NotReady: one does not, and why.
        """
        if self.draining:
            raise NotReady("the service is stopping; requests already accepted are still answered")
        if not self.current_classifier().ready():
            raise NotReady("the model is not warmed up, or has stopped responding")
        if not self.all_ready():
            raise NotReady("another worker is starting, or has stopped responding")


class ModelRegistry:
    """Loads, reloads and retires the models of one service.

    Args:
        open_model: opens the artefact at a path; raises as `open_session` does.
        check_classes: raises ValueError if a new model's classes do not fit the settings.
    """

    def __init__(
        self,
        state: ServingState,
        open_model: Callable[[Path], Session],
        check_classes: Callable[[Sequence[CellClass]], None] = lambda _: None,
    ) -> None:
        self._state = state
        self._options = InferenceOptions.from_settings(state.settings)
        self._open_model = open_model
        self._check_classes = check_classes
        self._reloading = self._reload_again = False
        self._prepared: Classifier | None = None
        self._drift_files = None if state.worker is None else DriftFiles(state.worker)
        self._retiring: dict[asyncio.Task[None], Classifier] = {}

    async def start(self, session: Session) -> None:
        """Warm up the first model and serve with it."""
        self._prepared = await self._warmed_up(session)
        self.commit()
        self._state.metrics.in_flight_limit(self._state.settings.max_queue_size)
        self._state.metrics.watch(queued=self._queued, in_flight=self._in_flight, ready=self._state.all_ready)

    async def close(self) -> None:
        """Close all models; accepted pictures are answered within what is left of `shutdown_timeout_s`."""
        timeout_s = self._state.shutdown_left_s()
        await asyncio.gather(*(classifier.close(timeout_s) for classifier in self._all()))
        for task in self._retiring:
            task.cancel()  # its classifier is closed; a request that never ends would keep the task alive

    def schedule_reload(self) -> None:
        """Reload the configured artefact in the background; the result is logged.

        During a reload, one more follows it: the running one may have read the files before they were replaced.
        """
        self._state.background.once("reload", self._reload_in_background)

    async def _reload_in_background(self) -> None:
        try:
            await self.reload()
        except ReloadInProgress:
            self._reload_again = True
            log.warning("A reload is in progress; the artefact is reloaded once more when it ends")
        except (ReloadRejected, NotReady):
            pass  # logged by `reload`

    async def reload(self, name: str | None = None) -> Manifest:
        """Serve with another model.

        Args:
            name: a file in the folder of the configured artefact; None: the configured artefact.

        Raises:
            ReloadRejected: the model cannot be opened or does not match its manifest; the current one keeps serving.
            ReloadInProgress: another reload is in progress.
            NotReady: the service is stopping.
        """
        if self._state.peers is not None:
            await self._state.peers.reload(name)
            return self._state.current_classifier().manifest
        if self._reloading:
            raise ReloadInProgress
        self._reloading = True
        try:
            await self.prepare(name)
        except (ReloadRejected, NotReady) as error:
            self.report_rejected(str(error))
            raise
        else:
            manifest = self.commit()
        finally:
            self._reloading = False
            if self._reload_again:
                self._reload_again = False
                self.schedule_reload()
        self.report_reloaded()
        return manifest

    async def prepare(self, name: str | None) -> Manifest:
        """Open, check and warm up another model beside the current one, for `commit` or `discard`.

        Raises:
            ReloadRejected, NotReady: as `reload`.
        """
        self._state.current_classifier()
        await self.discard()
        session = await MODEL.run(self._open, name)
        self._prepared = await self._warmed_up(session)
        return session.manifest

    def commit(self) -> Manifest:
        """Serve with the prepared model. The current one answers what it has begun."""
        classifier, old = self._prepared, self._state.classifier
        assert classifier is not None, "a model was prepared"
        self._prepared, self._state.classifier = None, classifier
        manifest = classifier.manifest
        self._state.metrics.model(
            name=manifest.name,
            version=manifest.version,
            sha256=manifest.sha256,
            manifest_sha256=manifest.digest,
            provider=classifier.provider,
            precision=classifier.precision,
        )
        if old is not None:
            self._retire(old)
        return manifest

    async def discard(self) -> None:
        """Close the prepared model, if there is one."""
        classifier, self._prepared = self._prepared, None
        if classifier is not None:
            await classifier.close()

    def report_rejected(self, reason: str) -> None:
        """Count and log a rejected reload."""
        self._state.metrics.model_change("refused")
        log.error("Reload rejected, keeping the current model: %s", reason)

    def report_reloaded(self) -> None:
        """Count and log a reload, and the model that serves now."""
        self._state.metrics.model_change("done")
        manifest = self._state.current_classifier().manifest
        hashes = manifest.sha256, manifest.digest
        log.info("Now serving %s %s, sha256 %s, manifest sha256 %s", manifest.name, manifest.version, *hashes)
        if manifest.trust is None:
            log.warning("The model has no trust reference: answers have no decision")

    async def measure_drift(self) -> None:
        """Measure input drift in a thread, and update its metrics. Of several workers, the one that leads does.

        All of them write their windows, because `drift_state` may ask any of them.
        """
        classifier, files = self._state.classifier, self._drift_files
        if classifier is not None and files is not None:
            await TELEMETRY.run(classifier.write_drift, files)
        if not self._state.leads:
            return
        drift = None if classifier is None else await TELEMETRY.run(classifier.measure_drift, files)
        self._state.metrics.drift.show(drift)

    async def drift_state(self) -> DriftState | None:
        """What the drift windows of all workers say; None without a reference, or if drift is off.

        Raises:
            NotReady: no model is loaded.
        """
        return await TELEMETRY.run(self._state.current_classifier().drift_state, self._drift_files)

    def _open(self, name: str | None) -> Session:
        try:
            configured = self._state.settings.artefact or bundled_artefact()
            session = self._open_model(configured if name is None else configured.parent / name)
        except ArtefactError as error:
            raise ReloadRejected(f"{error.path.name} {error.reason}") from error
        except ProviderUnavailable as error:
            raise ReloadRejected(str(error)) from error
        try:
            self._check_classes(session.manifest.classes)
        except ValueError as error:
            raise ReloadRejected(str(error)) from error
        return session

    async def _warmed_up(self, session: Session) -> Classifier:
        classifier = Classifier(session, self._options, self._state.metrics)
        try:
            await classifier.start()
        except Exception as error:
            raise ReloadRejected(f"the model fails during warm-up: {error}") from error
        if self._state.draining:
            await classifier.close()
            raise NotReady("the service is stopping")
        return classifier

    def _retire(self, classifier: Classifier) -> None:
        task = self._state.background.once("model_retirement", classifier.retire)
        self._retiring[task] = classifier
        task.add_done_callback(self._retiring.pop)

    def _queued(self) -> int:
        return sum(classifier.queued() for classifier in self._all())

    def _in_flight(self) -> int:
        return sum(classifier.in_flight() for classifier in self._all())

    def _all(self) -> list[Classifier]:
        current = self._state.classifier
        prepared = self._prepared
        return [*(each for each in (current, prepared) if each is not None), *self._retiring.values()]
