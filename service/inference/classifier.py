"""The one way from a picture to an answer: size cap, admission, decode, batch, model, answer.

Knows the order of the steps and how many pictures may be inside at a time. Knows no HTTP, no onnxruntime and no
picture formats. Overload is refused before any work is done on a picture; nothing but bookkeeping runs on the event
loop.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from contextlib import aclosing, contextmanager

import numpy as np

from model.drift.distance import Reading
from model.drift.reference import DriftReference
from model.image import PictureError, PictureTooLarge, UndecodablePicture, UnsupportedPicture
from service.concurrency.thread_pools import MODEL
from service.errors import MalformedBody, UploadMemoryExhausted
from service.inference.batching.batcher import Batcher
from service.inference.batching.errors import BatcherClosed, DeadlineExpired, QueueFull
from service.inference.drift_window import DriftWindow
from service.inference.pipeline import Answer, Data, Picture, PictureBatches
from service.runtime.loader import InferenceOptions
from service.runtime.session import Session
from service.telemetry import tracing
from service.telemetry.metrics import Metrics, PictureOutcome

_log = logging.getLogger(__name__)

#: What became of a picture, as the metrics name it; the first class that fits.
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
    """Classifies pictures with one session. Made at start-up, used on one event loop.

    At most `max_queue_size` pictures are inside, between admission and answer. Bulk work takes half of these places at
    most and waits for them; a single picture that finds none is refused at once.
    """

    def __init__(self, session: Session, options: InferenceOptions, metrics: Metrics) -> None:
        self.manifest = session.manifest
        self.provider = session.provider
        self._options = options
        self._metrics = metrics
        reference: DriftReference | None = getattr(
            session, "drift_reference", None
        )  # of an artefact, not of any session
        self._drift = None if reference is None else DriftWindow(reference, options.drift_window)
        self._pictures = PictureBatches(session, options, metrics, self._drift)
        self._batcher = Batcher[Data, Picture, Answer](
            self._pictures.decode,
            self._pictures.run,
            self._pictures.new_block,
            max_batch_size=options.max_batch_size,
            max_queue_size=options.max_queue_size,
            max_queue_delay_ms=options.max_queue_delay_ms,
            prepare_threads=options.decode_threads,
            max_run_s=options.max_run_s,
            max_failed_runs=options.max_failed_runs,
            observer=metrics,
        )
        self._places = asyncio.Semaphore(options.max_queue_size)
        self._bulk_places = asyncio.Semaphore(max(1, options.max_queue_size // 2))
        self._open = False
        self._holders = 0
        self._unheld = asyncio.Event()
        self._unheld.set()

    async def start(self) -> None:
        """Run the batches once that are planned for, so that no caller pays for it, and open.

        Those are all sizes where batches are padded, else the smallest and the largest.
        """
        await MODEL.run(self._pictures.warm_up)
        await self._batcher.start()
        self._open = True

    async def close(self, timeout_s: float | None = None) -> None:
        """Take nothing new, answer what is inside, and fail the rest with BatcherClosed.

        Args:
            timeout_s: for what is inside; `shutdown_timeout_s` unless told otherwise
        """
        self._open = False
        try:
            async with asyncio.timeout(self._options.shutdown_timeout_s if timeout_s is None else timeout_s):
                await self._batcher.close()
        except TimeoutError:
            _log.warning("closed before every picture was answered")

    @contextmanager
    def held(self) -> Iterator["Classifier"]:
        """Within the block it does not retire: what was begun with one model is ended with it."""
        self._holders += 1
        self._unheld.clear()
        try:
            yield self
        finally:
            self._holders -= 1
            if not self._holders:
                self._unheld.set()

    async def retire(self) -> None:
        """Close once nobody holds it."""
        await self._unheld.wait()
        await self.close()

    async def abandon(self) -> None:
        """Take nothing new and fail all that is inside with BatcherClosed, at once."""
        self._open = False
        await self._batcher.close(drain=False)

    def broken(self) -> bool:
        """Whether the model hangs, fails time after time, or lost a thread. It does not mend itself."""
        return self._open and not self._batcher.alive()

    def inside(self) -> int:
        """Pictures accepted and not yet answered."""
        return self._batcher.inside()

    def queued(self) -> int:
        """Pictures waiting for their batch."""
        return self._batcher.depth()

    def drift(self) -> Reading | None:
        """How far the last pictures lie from the reference; None where it is not measured."""
        return None if self._drift is None else self._drift.read()

    def ready(self) -> bool:
        """Whether a picture would be taken now: warm, not closing, and the model not hanging."""
        return self._open and self._batcher.alive()

    async def classify(self, data: Data, *, deadline: float | None = None) -> Answer:
        """One picture's answer. `deadline` is on `time.monotonic`. A cancelled caller's picture is not computed.

        Args:
            data: an encoded picture, or one that is decoded and resized already: (S, S, 3) RGB uint8

        Raises:
            PictureError: one of its family; the picture cannot be read or is too large.
            QueueFull: at once, when every place is taken.
            DeadlineExpired: not answered in time.
            BatcherClosed: not started, closing, closed, or not alive because the model hangs.
            RunFailed: the model failed on the batch that the picture was in.
        """
        try:
            self._check_size(data)
            self.check_room(deadline)
            async with self._places:
                answer = await self._answer(data, deadline)
        except BaseException as error:
            self._metrics.picture(_outcome(error))
            raise
        self._metrics.picture("answered")
        return answer

    def check_room(self, deadline: float | None = None) -> None:
        """Return when one picture more would be taken now and answered by its deadline.

        Asked before a body is read: what will be refused costs least when nothing of it has been looked at.

        Raises:
            QueueFull: every place is taken, or the answer would come too late.
        """
        if self._places.locked() or self._batcher.would_be_late(deadline):
            inside = self._batcher.inside()
            raise QueueFull(inside, self._options.max_queue_size, self._batcher.drain_s(inside))

    async def classify_many(
        self,
        pictures: Iterable[Data | Exception] | AsyncIterable[Data | Exception],
        *,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Answer | Exception, None]:
        """An answer, or what `classify` would have raised, for each picture and in their order, as soon as it is there.

        Takes from `pictures` only as fast as answers are taken from here, and waits for places instead of raising
        QueueFull; `timeout_s` is what one picture may take once it has a place. An exception among the pictures passes
        through at its position; one that the iteration itself raises is raised here, after the answers before it.
        Leave early only within `contextlib.aclosing`: that cancels what is under way and closes `pictures` if it is a
        generator.
        """
        window = asyncio.Semaphore(2 * self._options.max_batch_size)  # one batch in the model, one forming
        started: asyncio.Queue[asyncio.Task[Answer | Exception] | None] = asyncio.Queue()
        unsettled: set[asyncio.Task[Answer | Exception]] = set()

        async def feed() -> None:
            try:
                async with aclosing(_each(pictures)) as source:
                    async for picture in source:
                        await window.acquire()
                        task = asyncio.create_task(self._attempt(picture, timeout_s))
                        unsettled.add(task)
                        task.add_done_callback(unsettled.discard)
                        started.put_nowait(task)
            finally:
                started.put_nowait(None)

        feeding = asyncio.create_task(feed())
        try:
            while task := await started.get():
                yield await task
                window.release()
            await feeding
        finally:
            abandoned = [feeding, *unsettled]
            for unfinished in abandoned:
                unfinished.cancel()
            await asyncio.gather(*abandoned, return_exceptions=True)

    async def _attempt(self, picture: Data | Exception, timeout_s: float | None) -> Answer | Exception:
        try:
            async with self._bulk_places, self._places:
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

    async def _answer(self, data: Data, deadline: float | None) -> Answer:
        if not self.ready():
            raise BatcherClosed("no new pictures are taken: not started, closing, or the model hangs")
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

    def _check_size(self, data: Data) -> None:
        limit, size = self._options.max_image_bytes, self.manifest.preprocessing.input_size
        if isinstance(data, bytes):
            if len(data) > limit:
                raise PictureTooLarge(f"the picture has {len(data)} bytes; {limit} are allowed")
        elif data.shape != (size, size, 3) or data.dtype != np.uint8:  # a number would fill a whole row of the batch
            raise UnsupportedPicture(f"{data.dtype} pixels of shape {data.shape}; uint8 of {(size, size, 3)} are read")


def _outcome(error: BaseException) -> PictureOutcome:
    return next((name for kind, name in _OUTCOMES if isinstance(error, kind)), "failed")


async def _each(
    pictures: Iterable[Data | Exception] | AsyncIterable[Data | Exception],
) -> AsyncGenerator[Data | Exception, None]:
    if isinstance(pictures, Iterable):
        for picture in pictures:
            yield picture
        return
    try:
        async for picture in pictures:
            yield picture
    finally:
        if isinstance(pictures, AsyncGenerator):
            await pictures.aclose()  # now, and not once it is garbage
