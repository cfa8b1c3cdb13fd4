"""From picture bytes to answers: in order, in bounds, and nobody's trouble is another's."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Draw
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from model.contract import Manifest
from model.image import PictureTooLarge, UndecodablePicture, UnsupportedPicture, decode
from service.config.settings import Settings
from service.inference.batching.errors import BatcherClosed, DeadlineExpired, QueueFull, RunFailed
from service.inference.classifier import Classifier
from service.inference.pipeline import Answer
from service.runtime.loader import InferenceOptions
from service.runtime.session import OnnxSession, Outputs, open_session
from service.telemetry.metrics import Metrics


@pytest.fixture(scope="module")
def session(artefact: Path) -> OnnxSession:
    return open_session(artefact, provider="cpu")


class Gated:
    """The session behind a gate that is closed after the warm-up; it keeps the sizes of the batches it was given."""

    def __init__(self, session: OnnxSession) -> None:
        self.manifest: Manifest = session.manifest
        self.provider, self.precision = session.provider, session.precision
        self.batches: list[int] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self._session = session

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        self.batches.append(len(images))
        self.entered.release()
        self.gate.wait()
        if self.error is not None:
            raise self.error
        return self._session.run(images)

    async def begun(self) -> None:
        """Until one more call has begun."""
        await asyncio.to_thread(self.entered.acquire)


class Opened:
    """A started classifier and its metrics; closed at the end of the block."""

    def __init__(self, session: OnnxSession | Gated, **chosen: Any) -> None:
        self.metrics = Metrics()
        self.classifier = Classifier(session, InferenceOptions.from_settings(Settings(**chosen)), self.metrics)
        of = self.classifier
        self.metrics.watch(queued=of.queued, in_flight=of.in_flight, ready=of.ready)

    async def __aenter__(self) -> "Opened":
        await self.classifier.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.classifier.close()

    def read(self, metric: str, **labels: str) -> float:
        families = text_string_to_metric_families(self.metrics.exposition()[0].decode())
        found = (s.value for family in families for s in family.samples if (s.name, s.labels) == (metric, labels))
        return next(found, 0.0)

    def pictures(self, outcome: str) -> float:
        return self.read("marrowlens_pictures_total", outcome=outcome)

    async def until_inside(self, count: int) -> None:
        while self.read("marrowlens_in_flight_pictures") != count:  # noqa: ASYNC110 (seen from outside only)
            await asyncio.sleep(0)


@pytest.fixture
async def gated(session: OnnxSession) -> AsyncIterator[Gated]:
    gated = Gated(session)
    yield gated
    gated.gate.set()  # or a failed test would leave its thread at the gate


async def shut(opened: Opened, gated: Gated) -> None:
    """Close the gate; what the warm-up did is forgotten."""
    gated.gate.clear()
    gated.batches.clear()
    while gated.entered.acquire(blocking=False):
        pass
    assert opened.classifier.ready()


async def test_an_answer_is_what_the_session_says_of_the_decoded_picture(session: OnnxSession, draw: Draw) -> None:
    async with Opened(session) as opened:
        answer = await opened.classifier.classify(draw(1))
    picture = decode(draw(1), 64)
    outputs = session.run(picture[None])
    np.testing.assert_array_equal(answer.picture, picture)
    for name, array in outputs._asdict().items():
        np.testing.assert_allclose(getattr(answer, name), array[0], atol=1e-5)
    assert opened.pictures("answered") == 1


async def test_many_at_a_time_each_get_their_own(session: OnnxSession, draw: Draw) -> None:
    async with Opened(session, max_batch_size=8) as opened:
        answers = await asyncio.gather(*(opened.classifier.classify(draw(seed)) for seed in range(60)))
    for seed, answer in enumerate(answers):
        np.testing.assert_allclose(answer.logits, session.run(decode(draw(seed), 64)[None]).logits[0], atol=1e-4)
    assert opened.read("marrowlens_batch_pictures_sum") == 60


async def test_it_is_ready_between_start_and_close_only(session: OnnxSession, draw: Draw) -> None:
    opened = Opened(session)
    assert not opened.classifier.ready()
    with pytest.raises(BatcherClosed):
        await opened.classifier.classify(draw(1))
    async with opened:
        assert opened.classifier.ready()
        assert opened.read("marrowlens_ready") == 1
    assert not opened.classifier.ready()
    with pytest.raises(BatcherClosed):
        await opened.classifier.classify(draw(1))


async def test_the_smallest_and_the_largest_batch_are_warm_before_it_is_ready(gated: Gated) -> None:
    async with Opened(gated, max_batch_size=5):
        assert sorted(gated.batches) == [1, 5]


async def test_a_bad_picture_is_refused_and_never_reaches_the_model(gated: Gated, draw: Draw) -> None:
    async with Opened(gated, max_image_bytes=20_000, max_pixels=10_000) as opened:
        gated.batches.clear()
        for data, error, outcome in [
            (b"GIF89a", UnsupportedPicture, "unsupported"),
            (draw(1)[:200], UndecodablePicture, "undecodable"),
            (draw(1, size=(101, 100)), PictureTooLarge, "too_large"),
        ]:
            with pytest.raises(error):
                await opened.classifier.classify(data)
            assert opened.pictures(outcome) == 1
        with pytest.raises(PictureTooLarge, match="20001 bytes; 20000 are allowed"):
            await opened.classifier.classify(bytes(20_001))
        assert gated.batches == []


async def test_a_full_house_refuses_before_decoding(gated: Gated, draw: Draw) -> None:
    async with Opened(gated, max_batch_size=2, max_queue_size=4) as opened:
        await shut(opened, gated)
        inside = [asyncio.create_task(opened.classifier.classify(draw(seed))) for seed in range(4)]
        await gated.begun()
        await opened.until_inside(4)
        with pytest.raises(QueueFull) as refused:
            await opened.classifier.classify(b"would be unsupported if it were decoded")
        assert (refused.value.queued, refused.value.limit) == (4, 4)
        assert refused.value.retry_after_s > 0
        gated.gate.set()
        assert all(isinstance(answer, Answer) for answer in await asyncio.gather(*inside))
        assert isinstance(await opened.classifier.classify(draw(5)), Answer)
        assert opened.pictures("refused") == 1


async def test_a_caller_who_leaves_frees_his_place_and_is_not_computed(gated: Gated, draw: Draw) -> None:
    async with Opened(gated, max_batch_size=1, max_queue_size=3) as opened:
        await shut(opened, gated)
        first = asyncio.create_task(opened.classifier.classify(draw(1)))
        await gated.begun()
        second, third = (asyncio.create_task(opened.classifier.classify(draw(seed))) for seed in (2, 3))
        await opened.until_inside(3)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        assert opened.read("marrowlens_in_flight_pictures") == 2
        gated.gate.set()
        await asyncio.gather(first, third)
        assert gated.batches == [1, 1]
        assert opened.pictures("cancelled") == 1


async def test_a_picture_not_answered_in_time_is_given_up(gated: Gated, draw: Draw) -> None:
    async with Opened(gated) as opened:
        await shut(opened, gated)
        with pytest.raises(DeadlineExpired):
            await opened.classifier.classify(draw(1), deadline=time.monotonic() + 0.01)
        assert opened.pictures("expired") == 1
        assert opened.read("marrowlens_in_flight_pictures") == 0
        gated.gate.set()


async def test_a_failing_model_is_told_and_the_next_picture_is_answered(gated: Gated, draw: Draw) -> None:
    async with Opened(gated) as opened:
        gated.error = MemoryError("no room")  # type: ignore[assignment]
        with pytest.raises(RunFailed) as failed:
            await opened.classifier.classify(draw(1))
        assert failed.value.__cause__ is gated.error
        gated.error = None
        assert isinstance(await opened.classifier.classify(draw(1)), Answer)
        assert opened.pictures("failed") == 1


async def test_many_are_answered_in_order_and_a_bad_one_harms_nobody(session: OnnxSession, draw: Draw) -> None:
    broken = {0: b"", 13: b"not a picture", 14: draw(14)[:300], 99: b"\xff\xd8\xff"}
    pictures = [broken.get(seed, draw(seed)) for seed in range(100)]
    async with Opened(session, max_batch_size=4, max_queue_size=8) as opened:
        ends = [end async for end in opened.classifier.classify_many(pictures)]
    assert [index for index, end in enumerate(ends) if isinstance(end, Exception)] == sorted(broken)
    for seed, end in enumerate(ends):
        if isinstance(end, Answer):
            np.testing.assert_array_equal(end.picture, decode(draw(seed), 64))
    assert opened.pictures("answered") == 96


async def test_an_exception_among_the_pictures_keeps_its_place(session: OnnxSession, draw: Draw) -> None:
    unreadable = PictureTooLarge("this member is too large")
    async with Opened(session) as opened:
        ends = [end async for end in opened.classifier.classify_many([draw(1), unreadable, draw(2)])]
    assert [type(end) for end in ends] == [Answer, PictureTooLarge, Answer]
    assert ends[1] is unreadable
    assert opened.pictures("too_large") == 1


async def test_bulk_work_waits_for_places_and_leaves_half_of_them_to_others(gated: Gated, draw: Draw) -> None:
    async with Opened(gated, max_batch_size=2, max_queue_size=8) as opened:
        await shut(opened, gated)

        async def bulk(first: int) -> list[Answer | Exception]:
            pictures = [draw(seed) for seed in range(first, first + 20)]
            return [end async for end in opened.classifier.classify_many(pictures)]

        bulks = [asyncio.create_task(bulk(100 * number)) for number in range(5)]
        await gated.begun()
        await opened.until_inside(4)
        single = asyncio.create_task(opened.classifier.classify(draw(7)))
        await opened.until_inside(5)
        gated.gate.set()
        assert isinstance(await single, Answer)
        ends = await asyncio.gather(*bulks)
        assert [type(end) for bulk_ends in ends for end in bulk_ends] == [Answer] * 100
        assert opened.pictures("refused") == 0


async def test_pictures_are_taken_only_as_fast_as_answers_are(session: OnnxSession, draw: Draw) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield draw(taken)

    async with Opened(session, max_batch_size=2) as opened:
        async with aclosing(opened.classifier.classify_many(endless())) as ends:
            for number in range(1, 4):
                assert isinstance(await anext(ends), Answer)
                assert taken <= number + 2 * 2
        assert opened.read("marrowlens_in_flight_pictures") == 0


async def test_an_answer_comes_while_the_source_still_waits(session: OnnxSession, draw: Draw) -> None:
    more = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield draw(1)
        await more.wait()
        yield draw(2)

    async with Opened(session) as opened, aclosing(opened.classifier.classify_many(slow())) as ends:
        assert isinstance(await anext(ends), Answer)
        more.set()
        assert isinstance(await anext(ends), Answer)
        with pytest.raises(StopAsyncIteration):
            await anext(ends)


async def test_leaving_early_cancels_what_is_under_way_and_ends_the_source(gated: Gated, draw: Draw) -> None:
    ended = False

    async def source() -> AsyncIterator[bytes]:
        nonlocal ended
        try:
            yield b"no picture, so that there is an answer while the gate is closed"
            for seed in range(1000):
                yield draw(seed)
        finally:
            ended = True

    async with Opened(gated, max_batch_size=2) as opened:
        await shut(opened, gated)
        async with aclosing(opened.classifier.classify_many(source())) as ends:
            assert isinstance(await anext(ends), UnsupportedPicture)
            await gated.begun()
            await opened.until_inside(2 * 2 - 1)
            (computing,) = gated.batches
        assert opened.read("marrowlens_in_flight_pictures") == 0
        assert ended
        gated.gate.set()
        assert isinstance(await opened.classifier.classify(draw(1)), Answer)
        assert gated.batches == [computing, 1]


async def test_a_source_that_fails_is_told_after_the_answers_before_it(session: OnnxSession, draw: Draw) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield draw(1)
        raise ConnectionResetError("the client is gone")

    async with Opened(session) as opened:
        ends = opened.classifier.classify_many(source())
        assert isinstance(await anext(ends), Answer)
        with pytest.raises(ConnectionResetError):
            await anext(ends)


async def test_a_hanging_model_costs_bulk_work_its_timeout_and_no_more(gated: Gated, draw: Draw) -> None:
    async with Opened(gated, max_batch_size=1, max_queue_size=2) as opened:
        await shut(opened, gated)
        pictures = [draw(seed) for seed in range(4)]
        ends = opened.classifier.classify_many(pictures, timeout_s=0.01)
        assert [type(end) async for end in ends] == [DeadlineExpired] * 4
        gated.gate.set()


async def test_close_answers_what_is_inside(gated: Gated, draw: Draw) -> None:
    async with Opened(gated, max_batch_size=2) as opened:
        await shut(opened, gated)
        inside = [asyncio.create_task(opened.classifier.classify(draw(seed))) for seed in range(7)]
        await opened.until_inside(7)
        closing = asyncio.create_task(opened.classifier.close())
        await asyncio.sleep(0)
        assert not opened.classifier.ready()
        with pytest.raises(BatcherClosed):
            await opened.classifier.classify(draw(9))
        gated.gate.set()
        assert [type(answer) for answer in await asyncio.gather(*inside)] == [Answer] * 7
        await closing


async def test_close_settles_what_a_hanging_model_leaves(gated: Gated, draw: Draw) -> None:
    opened = Opened(gated, max_batch_size=2, shutdown_timeout_s=0)
    async with opened:
        await shut(opened, gated)
        inside = [asyncio.create_task(opened.classifier.classify(draw(seed))) for seed in range(7)]
        bulk = opened.classifier.classify_many([draw(seed) for seed in range(9)])
        await gated.begun()
        await opened.until_inside(7)
        await opened.classifier.close()
        ends = await asyncio.gather(*inside, return_exceptions=True)
        assert [type(end) for end in ends] == [BatcherClosed] * 7
        assert [type(end) async for end in bulk] == [BatcherClosed] * 9
        assert opened.read("marrowlens_in_flight_pictures") == 0
        gated.gate.set()


async def test_nothing_new_waits_for_a_model_that_hangs(gated: Gated, draw: Draw) -> None:
    async with Opened(gated, max_batch_size=1, max_run_s=0.01) as opened:
        await shut(opened, gated)
        hung = asyncio.create_task(opened.classifier.classify(draw(0)))
        while opened.classifier.ready():  # noqa: ASYNC110 (it is time that passes; there is no event)
            await asyncio.sleep(0)
        with pytest.raises(BatcherClosed, match="hangs"):
            await opened.classifier.classify(draw(1))
        assert [type(end) async for end in opened.classifier.classify_many([draw(2)])] == [BatcherClosed]
        gated.gate.set()
        assert isinstance(await hung, Answer)
        assert opened.classifier.ready()
