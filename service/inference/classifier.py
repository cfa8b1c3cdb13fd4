"""The one way from a picture to an answer: size check, admission, decoding, batching, model.

Overload is refused before any work on the picture. The event loop does bookkeeping only.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import AbstractContextManager, aclosing
from types import TracebackType

import numpy as np

from model.drift.distance import DriftMeasurement
from model.drift.reference import DriftReference
from model.image import PictureError, PictureTooLarge, UndecodablePicture, UnsupportedPicture
from service.concurrency.thread_pools import MODEL
from service.errors import MalformedBody, UploadMemoryExhausted
from service.inference.batching.batcher import Batcher
from service.inference.batching.errors import BatcherClosed, DeadlineExpired, QueueFull
from service.inference.drift_files import DriftFiles
from service.inference.drift_window import DriftState, DriftWindow
from service.inference.pipeline import Answer, PictureData, PicturePipeline, Pixels
from service.runtime.loader import InferenceOptions
from service.runtime.session import Session
from service.telemetry import tracing
from service.telemetry.metrics import Metrics, PictureOutcome

_log = logging.getLogger(__name__)

#: The outcome in the metrics by exception; the first class that matches.
_OUTCOMES: tuple[tuple[type[BaseException], PictureOutcome], ...] = (
    (PictureTooLarge, "too_large"),
    (UnsupportedPicture, "unsupported"),
    (UndecodablePicture, "undecodable"),
    (PictureError, "undecodable"),
    (MalformedBody, "malformed"),
    (QueueFull, "refused"),
    (UploadMemoryExhausted, "refused"),
    (DeadlineExpired, "expired"),
    (BatcherClosed, "closed"),
    (asyncio.CancelledError, "cancelled"),
    (GeneratorExit, "cancelled"),
)


class Classifier:
    """Classifies pictures with one session, on one event loop.

    At most `max_queue_size` pictures are in flight. A single picture beyond that is refused at once. `classify_many`
    uses at most half of these slots, and waits for them.
    """

    def __init__(self, session: Session, options: InferenceOptions, metrics: Metrics) -> None:
        self.manifest = session.manifest
        self.provider, self.precision = session.provider, session.precision
        self._options = options
        self._metrics = metrics
        # Sessions that are not opened from an artefact have no reference.
        reference: DriftReference | None = getattr(session, "drift_reference", None)
        self._drift = None if reference is None else DriftWindow(reference, options.drift_window)
        self._pipeline = PicturePipeline(session, options, metrics, self._drift)
        self._batcher = Batcher[PictureData, Pixels, Answer](
            self._pipeline.decode,
            self._pipeline.run,
            self._pipeline.new_block,
            max_batch_size=options.max_batch_size,
            max_queue_size=options.max_queue_size,
            max_queue_delay_ms=options.max_queue_delay_ms,
            prepare_threads=options.decode_threads,
            max_run_s=options.max_run_s,
            max_failed_runs=options.max_failed_runs,
            observer=metrics,
        )
        self._slots = asyncio.Semaphore(options.max_queue_size)
        self._bulk_slots = asyncio.Semaphore(max(1, options.max_queue_size // 2))
        self._open = False
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    async def start(self) -> None:
        """Warm up, so that no request waits for it, and accept pictures."""
        await MODEL.run(self._pipeline.warm_up)
        await self._batcher.start()
        self._open = True

    async def close(self, timeout_s: float | None = None) -> None:
        """Accept no more pictures, answer those in flight, and after the timeout fail the rest with BatcherClosed.

        Args:
            timeout_s: by default `shutdown_timeout_s`.
        """
        self._open = False
        try:
            async with asyncio.timeout(self._options.shutdown_timeout_s if timeout_s is None else timeout_s):
                await self._batcher.close()
        except TimeoutError:
            _log.warning("Shutdown timeout: closed before every picture was answered")

    def in_use(self) -> AbstractContextManager["Classifier"]:
        """Delay `retire` until the block ends, so that a request is answered by one model from start to end."""
        return _Use(self)

    def count_users(self, change: int) -> None:
        """Count blocks that begin or end to use this classifier."""
        self._users += change
        if self._users:
            self._unused.clear()
        else:
            self._unused.set()

    async def retire(self) -> None:
        """Close once it is not in use."""
        await self._unused.wait()
        await self.close()

    async def abort(self) -> None:
        """Accept no more pictures, and fail those in flight with BatcherClosed at once."""
        self._open = False
        await self._batcher.close(drain=False)

    def broken(self) -> bool:
        """Whether the model hangs, fails repeatedly, or has lost a thread. Only a restart helps."""
        return self._open and not self._batcher.alive()

    def in_flight(self) -> int:
        """Number of pictures accepted and not yet answered."""
        return self._batcher.in_flight()

    def queued(self) -> int:
        """Number of pictures whose batch has not started."""
        return self._batcher.queued()

    def measure_drift(self, files: DriftFiles | None = None) -> DriftMeasurement | None:
        """Distances of the last pictures from the drift reference; None without a reference.

        Args:
            files: with the windows of other workers, whose pictures count too.
        """
        if self._drift is None:
            return None
        return self._drift.measure(() if files is None else files.others(self.manifest.digest))

    def drift_state(self, files: DriftFiles | None = None) -> DriftState | None:
        """What the drift window says; None without a reference. Arguments as of `measure_drift`."""
        if self._drift is None:
            return None
        return self._drift.state(() if files is None else files.others(self.manifest.digest))

    def write_drift(self, files: DriftFiles) -> None:
        """Write the drift window for other workers."""
        if self._drift is not None:
            files.write(self.manifest.digest, self._drift.sums())

    def ready(self) -> bool:
        """Whether pictures are accepted: warmed up, not closing, and the model responds."""
        return self._open and self._batcher.alive()

    async def classify(self, data: PictureData, *, deadline: float | None = None) -> Answer:
        """Classify one picture. If the caller is cancelled, the picture is not computed.

        Args:
            data: an encoded picture, or pixels (S, S, 3), RGB, uint8.
            deadline: on `time.monotonic`.

        Raises:
            PictureError: the picture cannot be read or is too large.
            QueueFull: at once: no slot is free, or the answer would be too late.
            DeadlineExpired: the deadline passed.
            BatcherClosed: not started, closing, closed, or the model hangs.
            RunFailed: the model failed on the picture's batch.
        """
        try:
            self._check_size(data)
            self._check_slots()
            async with self._slots:
                answer = await self._answer(data, deadline)
        except BaseException as error:
            self._metrics.picture(_outcome(error))
            raise
        self._metrics.picture("answered")
        return answer

    def check_capacity(self, deadline: float | None = None) -> None:
        """Check that one more picture would be accepted now. Routes call it before they read a body.

        Raises:
            QueueFull: no slot is free, or the answer would be too late.
        """
        self._check_slots()
        if self._batcher.would_be_late(deadline):
            raise self._full()

    def _check_slots(self) -> None:
        if self._slots.locked():
            raise self._full()

    def _full(self) -> QueueFull:
        in_flight = self._batcher.in_flight()
        return QueueFull(in_flight, self._options.max_queue_size, self._batcher.drain_s(in_flight))

    async def classify_many(
        self,
        pictures: Iterable[PictureData | Exception] | AsyncIterable[PictureData | Exception],
        *,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Answer | Exception, None]:
        """Classify pictures; yields an answer or exception for each, in order, as soon as it is ready.

        Reads `pictures` only as fast as the answers are consumed, and waits for free slots. An exception among the
        pictures is yielded at its position. One raised by the iteration itself is raised here, after the answers
        before it. To stop early, use `contextlib.aclosing`: it cancels the pictures in flight, and closes `pictures`
        if that is a generator.

        Args:
            timeout_s: time for one picture, from when it has a slot.
        """
        window = asyncio.Semaphore(2 * self._options.max_batch_size)  # one batch in the model, one under construction
        started: asyncio.Queue[asyncio.Task[Answer | Exception] | None] = asyncio.Queue()
        unsettled: set[asyncio.Task[Answer | Exception]] = set()

        async def feed() -> None:
            try:
                async with aclosing(_iterate(pictures)) as source:
                    async for picture in source:
                        await window.acquire()
                        task = asyncio.create_task(self._attempt(picture, timeout_s))
                        unsettled.add(task)
                        task.add_done_callback(unsettled.discard)
                        started.put_nowait(task)
            finally:
                started.put_nowait(None)

        feeder = asyncio.create_task(feed())
        try:
            while task := await started.get():
                yield await task
                window.release()
            await feeder
        finally:
            abandoned = [feeder, *unsettled]
            for unfinished in abandoned:
                unfinished.cancel()
            await asyncio.gather(*abandoned, return_exceptions=True)

    async def _attempt(self, picture: PictureData | Exception, timeout_s: float | None) -> Answer | Exception:
        try:
            async with self._bulk_slots, self._slots:
                if isinstance(picture, Exception):
                    raise picture
                self._check_size(picture)
                answer = await self._answer(picture, None if timeout_s is None else time.monotonic() + timeout_s)
        except Exception as error:
            self._metrics.picture(_outcome(error))
            return error
        except BaseException as error:
            self._metrics.picture(_outcome(error))
            raise
        self._metrics.picture("answered")
        return answer

    async def _answer(self, data: PictureData, deadline: float | None) -> Answer:
        if not self.ready():
            raise BatcherClosed("pictures are not accepted: not started, closing, or the model hangs")
        trace = tracing.current_trace.get()
        timing = None if trace is None else trace.item_timing()
        if trace is None or timing is None:
            return await self._batcher.submit(data, deadline=deadline)
        try:
            answer = await self._batcher.submit(data, deadline=deadline, timing=timing)
        except BaseException as error:
            trace.item_done(timing, error)
            raise
        trace.item_done(timing, None)
        return answer

    def _check_size(self, data: PictureData) -> None:
        limit, size = self._options.max_image_bytes, self.manifest.preprocessing.input_size
        if isinstance(data, bytes):
            if len(data) > limit:
                raise PictureTooLarge(f"the picture has {len(data)} bytes; {limit} are allowed")
        elif data.shape != (size, size, 3) or data.dtype != np.uint8:  # numpy would broadcast it
            raise UnsupportedPicture(f"{data.dtype} pixels of shape {data.shape}; send uint8 of {(size, size, 3)}")


class _Use:
    """A block in which a classifier is in use."""

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier

    def __enter__(self) -> Classifier:
        self._classifier.count_users(1)
        return self._classifier

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._classifier.count_users(-1)


def _outcome(error: BaseException) -> PictureOutcome:
    return next((name for kind, name in _OUTCOMES if isinstance(error, kind)), "failed")


async def _iterate(
    pictures: Iterable[PictureData | Exception] | AsyncIterable[PictureData | Exception],
) -> AsyncGenerator[PictureData | Exception, None]:
    if isinstance(pictures, Iterable):
        for picture in pictures:
            yield picture
        return
    try:
        async for picture in pictures:
            yield picture
    finally:
        if isinstance(pictures, AsyncGenerator):
            await pictures.aclose()  # now, not when it is garbage-collected
