"""The supervisor: failures are counted, logged without their text, and the task restarts."""

import asyncio

import pytest

from service.concurrency.supervisor import Supervisor

PATIENT = "Muster, Erika"


class Seen:
    """A TaskObserver that records its calls."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool | None]] = []

    def running(self, task: str, running: bool) -> None:
        self.told.append((task, running))

    def failed(self, task: str) -> None:
        self.told.append((task, None))


async def test_a_task_that_fails_is_started_again_after_pauses_that_double(caplog: pytest.LogCaptureFixture) -> None:
    seen, moments = Seen(), []
    supervisor = Supervisor(seen, first_pause_s=0.02)

    async def fails() -> None:
        moments.append(asyncio.get_running_loop().time())
        if len(moments) < 4:
            raise LookupError(PATIENT)

    await supervisor.start("drift", fails)
    pauses_s = [after - before for before, after in zip(moments, moments[1:], strict=False)]
    assert all(pause_s >= least_s for pause_s, least_s in zip(pauses_s, (0.02, 0.04, 0.08), strict=True))
    assert seen.told == [("drift", True), *(3 * [("drift", None), ("drift", False)])]
    assert "background task drift failed, restart in 0.04 s: LookupError at test_supervisor.py:" in caplog.text
    assert PATIENT not in caplog.text


async def test_a_task_counts_as_running_again_once_it_has_not_failed_for_a_time() -> None:
    seen, failed = Seen(), False
    proven = asyncio.Event()

    class Proven(Seen):
        def running(self, task: str, running: bool) -> None:
            super().running(task, running)
            if running and (task, False) in self.told:
                proven.set()

    seen = Proven()
    supervisor = Supervisor(seen, first_pause_s=0.01, proven_s=0.02)

    async def fails_once() -> None:
        nonlocal failed
        if not failed:
            failed = True
            raise LookupError
        await asyncio.Event().wait()

    supervisor.start("drift", fails_once)
    async with asyncio.timeout(60):
        await proven.wait()
    assert [told for _, told in seen.told if told is not None] == [True, False, True]
    await supervisor.close(60)


async def test_what_is_done_once_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    seen = Seen()

    async def fails() -> None:
        raise LookupError(PATIENT)

    await Supervisor(seen).once("reload", fails)
    assert seen.told == [("reload", None)]
    assert "background task reload failed: LookupError" in caplog.text and PATIENT not in caplog.text


async def test_the_end_does_not_wait_for_a_task_that_will_not_end() -> None:
    supervisor, go_on, cancelled = Supervisor(Seen()), asyncio.Event(), asyncio.Event()

    async def stays() -> None:
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                cancelled.set()

    staying = supervisor.start("drift", stays)
    ended = supervisor.every("keys", 3600, lambda: asyncio.sleep(0))
    await asyncio.sleep(0)
    await supervisor.close(0.05)
    assert cancelled.is_set() and ended.cancelled() and not staying.done()
    go_on.set()
    await staying
