"""The one way from a picture to an answer: size cap, admission, decode, batch, model, answer.

Knows the order of the steps and how many pictures may be inside at a time. Knows no HTTP, no onnxruntime and no
picture formats. Overload is refused before any work is done on a picture; nothing but bookkeeping runs on the event
loop.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.image import PictureError, PictureTooLarge, UndecodablePicture, UnsupportedPicture, decode
from service.batcher import Batcher, BatcherClosed, DeadlineExpired, QueueFull
from service.metrics import Metrics
from service.session import Session
from service.settings import Settings
from service.threads import cpu_budget

Picture = NDArray[np.uint8]  # (S, S, 3) RGB

_log = logging.getLogger(__name__)

#: What became of a picture, as the metrics name it; the first class that fits.
_OUTCOMES: tuple[tuple[type[BaseException], str], ...] = (
    (PictureTooLarge, "too_large"),
    (UnsupportedPicture, "unsupported"),
    (UndecodablePicture, "undecodable"),
    (PictureError, "undecodable"),
    (QueueFull, "refused"),
    (DeadlineExpired, "expired"),
    (BatcherClosed, "closed"),
    (asyncio.CancelledError, "cancelled"),
    (GeneratorExit, "cancelled"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the model says of one picture: the outputs of the contract, and the picture as the model saw it.

    The arrays are rows of their batch's: copy what is kept for long.
    """

    probabilities: NDArray[np.float32]  # (C,)
    logits: NDArray[np.float32]  # (C,)
    attention: NDArray[np.float32]  # (K, h, w)
    evidence: NDArray[np.float32]  # (C, h, w)
    embedding: NDArray[np.float32]  # (D,)
    picture: Picture


class Classifier:
    """Classifies pictures with one session. Made at start-up, used on one event loop.

    At most `max_queue_size` pictures are inside, between admission and answer. Bulk work takes half of these places at
    most and waits for them; a single picture that finds none is refused at once.
    """

    def __init__(self, session: Session, settings: Settings, metrics: Metrics) -> None:
        self.manifest = session.manifest
        self.provider = session.provider
        self._session = session
        self._settings = settings
        self._metrics = metrics
        self._batcher = Batcher[Picture, Answer](
            self._run,
            max_batch_size=settings.max_batch_size,
            max_queue_size=settings.max_queue_size,
            max_queue_delay_ms=settings.max_queue_delay_ms,
            max_run_s=settings.max_run_s,
            observer=metrics,
        )
        self._decoding = ThreadPoolExecutor(settings.decode_threads or cpu_budget(), thread_name_prefix="decode")
        self._places = asyncio.Semaphore(settings.max_queue_size)
        self._bulk_places = asyncio.Semaphore(max(1, settings.max_queue_size // 2))
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._open = False
        self._abandoned = False
        metrics.watch(queued=self._batcher.depth, in_flight=lambda: self._inside, ready=self.ready)
        metrics.model(
            name=self.manifest.name, version=self.manifest.version, sha256=self.manifest.sha256, provider=self.provider
        )

    async def start(self) -> None:
        """Run the smallest and the largest batch once, so that no caller pays for it, and open."""
        await asyncio.to_thread(self._warm_up)
        await self._batcher.start()
        self._open = True

    async def close(self) -> None:
        """Take nothing new, answer what is inside within `shutdown_timeout_s`, and fail the rest with BatcherClosed."""
        self._open = False
        try:
            async with asyncio.timeout(self._settings.shutdown_timeout_s):
                await self._empty.wait()
        except TimeoutError:
            _log.warning("closing with %d pictures unanswered", self._inside)
        self._abandoned = True
        await self._batcher.close(drain=False)
        self._decoding.shutdown(wait=False)

    def ready(self) -> bool:
        """Whether a picture would be taken now: warm, not closing, and the model not hanging."""
        return self._open and self._batcher.alive()

    async def classify(self, data: bytes | Picture, *, deadline: float | None = None) -> Answer:
        """One picture's answer. `deadline` is on `time.monotonic`. A cancelled caller's picture is not computed.

        Takes a file's bytes, or a picture that is decoded and resized already: uint8, (S, S, 3) RGB.

        Raises:
            PictureError: one of its family; the picture cannot be read or is too large.
            QueueFull: at once, when every place is taken.
            DeadlineExpired: not answered in time.
            BatcherClosed: not started, closing, closed, or not alive because the model hangs.
            RunFailed: the model failed on the batch that the picture was in.
        """
        async with self._settled(deadline):
            self._check_size(data)
            if self._places.locked():
                raise QueueFull(self._inside, self._settings.max_queue_size, self._batcher.drain_s(self._inside))
            async with self._places:
                return await self._answer(data, deadline)

    async def classify_many(
        self,
        pictures: Iterable[bytes | Picture | Exception] | AsyncIterable[bytes | Picture | Exception],
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
        window = asyncio.Semaphore(2 * self._settings.max_batch_size)  # one batch in the model, one forming
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

    async def _attempt(self, picture: bytes | Picture | Exception, timeout_s: float | None) -> Answer | Exception:
        try:
            async with self._bulk_places, self._places:
                deadline = None if timeout_s is None else time.monotonic() + timeout_s
                async with self._settled(deadline):
                    if isinstance(picture, Exception):
                        raise picture
                    self._check_size(picture)
                    return await self._answer(picture, deadline)
        except Exception as error:
            return error

    async def _answer(self, data: bytes | Picture, deadline: float | None) -> Answer:
        if not self.ready():
            raise BatcherClosed("no new pictures are taken: not started, closing, or the model hangs")
        self._inside += 1
        self._empty.clear()
        try:
            picture = (
                await asyncio.get_running_loop().run_in_executor(self._decoding, self._decode, data)
                if isinstance(data, bytes)
                else data
            )
            return await self._batcher.submit(picture, deadline=deadline)
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    def _check_size(self, data: bytes | Picture) -> None:
        limit, size = self._settings.max_image_bytes, self.manifest.preprocessing.input_size
        if isinstance(data, bytes):
            if len(data) > limit:
                raise PictureTooLarge(f"the picture has {len(data)} bytes; {limit} are allowed")
        elif data.shape != (size, size, 3) or data.dtype != np.uint8:  # it would be its neighbours' trouble
            raise UnsupportedPicture(f"{data.dtype} pixels of shape {data.shape}; uint8 of {(size, size, 3)} are read")

    @asynccontextmanager
    async def _settled(self, deadline: float | None) -> AsyncIterator[None]:
        """Around all that happens to one picture: ends it at its deadline and counts what became of it."""
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                yield
        except TimeoutError:
            self._metrics.picture("expired")
            raise DeadlineExpired("the deadline passed") from None
        except BaseException as error:
            self._metrics.picture(_outcome(error))
            raise
        self._metrics.picture("answered")

    def _decode(self, data: bytes) -> Picture:
        # In a decode thread.
        if self._abandoned:
            raise BatcherClosed("closed before the picture was decoded")
        began = time.perf_counter()
        try:
            return decode(data, self.manifest.preprocessing.input_size, max_pixels=self._settings.max_pixels)
        finally:
            self._metrics.decoded(time.perf_counter() - began)

    def _run(self, pictures: Sequence[Picture]) -> list[Answer]:
        # In the batcher's thread.
        outputs = self._session.run(np.stack(pictures))  # N times (S, S, 3) -> (N, S, S, 3)
        return [Answer(*rows) for rows in zip(*outputs, pictures, strict=True)]

    def _warm_up(self) -> None:
        size = self.manifest.preprocessing.input_size
        for count in {1, self._settings.max_batch_size}:
            self._session.run(np.zeros((count, size, size, 3), np.uint8))


def _outcome(error: BaseException) -> str:
    return next((name for kind, name in _OUTCOMES if isinstance(error, kind)), "failed")


async def _each(
    pictures: Iterable[bytes | Picture | Exception] | AsyncIterable[bytes | Picture | Exception],
) -> AsyncGenerator[bytes | Picture | Exception, None]:
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
