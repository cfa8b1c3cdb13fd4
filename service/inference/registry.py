"""Which model serves, and how another one takes over while the service serves.

The new one is opened, proven and warmed beside the old one; only then do new requests go to it. The old one answers
those that it has begun, and leaves. A new one that is refused changes nothing. Knows classifiers; does not know how an
artefact is opened, nor who may ask for a change.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from model.contract import ArtefactError, Manifest
from service.concurrency.thread_pools import MODEL, TELEMETRY
from service.errors import NotReady, ReloadInProgress, ReloadRejected
from service.inference.classifier import Classifier
from service.inference.serving import Serving
from service.runtime.artifact import bundled_artefact
from service.runtime.loader import InferenceOptions
from service.runtime.session import ProviderUnavailable, Session

log = logging.getLogger(__name__)


class Models:
    """The model of one service. `open_model` opens an artefact by its path, and raises what `open_session` raises."""

    def __init__(self, serving: Serving, open_model: Callable[[Path], Session]) -> None:
        self._serving = serving
        self._options = InferenceOptions.from_settings(serving.settings)
        self._open_model = open_model
        self._changing = self._again = False
        self._retiring: dict[asyncio.Task[None], Classifier] = {}

    async def begin(self, session: Session) -> None:
        """Serve with a first model, once it is warm."""
        await self._take_over(session)
        self._serving.metrics.in_flight_limit(self._serving.settings.max_queue_size)
        self._serving.metrics.watch(queued=self._queued, in_flight=self._in_flight, ready=self._serving.ready)

    async def end(self) -> None:
        """Serve no more; what was accepted is answered within what is left of `shutdown_timeout_s`."""
        timeout_s = self._serving.shutdown_left_s()
        await asyncio.gather(*(classifier.close(timeout_s) for classifier in self._all()))
        for task in self._retiring:
            task.cancel()  # closed already; a request that never ends would hold it for ever

    def reread(self) -> None:
        """Read the configured artefact anew in the background; the log says what came of it.

        During a change it is read once more when that has ended: the change may have read the files before they were
        replaced.
        """
        self._serving.background.once("reload", self._reread)

    async def _reread(self) -> None:
        try:
            await self.change()
        except ReloadInProgress:
            self._again = True
            log.warning("the model is being changed already: the artefact is read anew when that has ended")
        except (ReloadRejected, NotReady):
            pass  # said in the log

    async def measure_drift(self) -> None:
        """Measure input drift in a thread; the metrics show it from then on."""
        serving = self._serving.classifier
        reading = None if serving is None else await TELEMETRY.run(serving.drift)
        self._serving.metrics.drift.show(reading)

    async def change(self, name: str | None = None) -> Manifest:
        """Serve with another model.

        Args:
            name: a file in the folder of the configured artefact; None reads that artefact anew.

        Raises:
            ReloadRejected: it cannot be opened or does not keep the contract; the old one serves on.
            ReloadInProgress: another change has not ended.
            NotReady: the service is stopping.
        """
        if self._changing:
            raise ReloadInProgress
        self._changing = True
        try:
            old = self._serving.serving()
            session = await MODEL.run(self._opened, name)
            await self._take_over(session)
            self._retire(old)
        except (ReloadRejected, NotReady) as error:
            self._serving.metrics.model_change("refused")
            log.error("the model stays: %s", error)
            raise
        finally:
            self._changing = False
            if self._again:
                self._again = False
                self.reread()
        self._serving.metrics.model_change("done")
        manifest = session.manifest
        hashes = manifest.sha256, manifest.digest
        log.info("model %s %s took over, sha256 %s, manifest %s", manifest.name, manifest.version, *hashes)
        return manifest

    def _opened(self, name: str | None) -> Session:
        try:
            configured = self._serving.settings.artefact or bundled_artefact()
            return self._open_model(configured if name is None else configured.parent / name)
        except ArtefactError as error:
            raise ReloadRejected(f"{error.path.name} {error.reason}") from error
        except ProviderUnavailable as error:
            raise ReloadRejected(str(error)) from error

    async def _take_over(self, session: Session) -> None:
        classifier = Classifier(session, self._options, self._serving.metrics)
        try:
            await classifier.start()
        except Exception as error:
            raise ReloadRejected(f"it fails on its first pictures: {error}") from error
        if self._serving.draining:
            await classifier.close()
            raise NotReady("the service is stopping")
        self._serving.classifier = classifier
        manifest = session.manifest
        self._serving.metrics.model(
            name=manifest.name,
            version=manifest.version,
            sha256=manifest.sha256,
            manifest_sha256=manifest.digest,
            provider=session.provider,
        )

    def _retire(self, classifier: Classifier) -> None:
        task = self._serving.background.once("model_retirement", classifier.retire)
        self._retiring[task] = classifier
        task.add_done_callback(self._retiring.pop)

    def _queued(self) -> int:
        return sum(classifier.queued() for classifier in self._all())

    def _in_flight(self) -> int:
        return sum(classifier.inside() for classifier in self._all())

    def _all(self) -> list[Classifier]:
        serving = self._serving.classifier
        return [*([] if serving is None else [serving]), *self._retiring.values()]
