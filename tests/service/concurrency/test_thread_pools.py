"""Thread pools: bounded, independent of each other, and never blocking the exit of the process."""

import asyncio
import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from inspect import iscoroutinefunction

import pytest
from checkout import ROOT
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from service.app import MODULES
from service.concurrency.thread_pools import POOLS, ThreadPool, ThreadPoolFull

SERVICE = ROOT / "service"


class Gate:
    """Calls that block until the gate opens."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered = threading.Semaphore(0)

    def wait(self) -> str:
        self.entered.release()
        assert self.opened.wait(60)
        return threading.current_thread().name


@pytest.fixture
def gate() -> Iterator[Gate]:
    found = Gate()
    yield found
    found.opened.set()


async def test_a_call_runs_in_a_named_daemon_thread_and_in_its_callers_context() -> None:
    who = contextvars.ContextVar("who", default="nobody")
    who.set("the caller")
    pool = ThreadPool("sums", threads=2, waiting=1)

    def call(left: int, *, right: int) -> tuple[int, str, bool, str]:
        thread = threading.current_thread()
        return left + right, thread.name, thread.daemon, who.get()

    assert await pool.run(call, 1, right=2) == (3, "sums-0", True, "the caller")


async def test_what_a_call_raises_is_its_callers_and_the_thread_lives_on() -> None:
    pool = ThreadPool("sums", threads=1, waiting=1)
    for error in (ValueError("off"), SystemExit(3), KeyboardInterrupt()):

        def fails(error: BaseException = error) -> None:
            raise error

        future = pool.submit(fails)
        assert await asyncio.to_thread(future.exception, 60) is error
    assert await pool.run(lambda: threading.current_thread().name) == "sums-0"


async def test_one_call_more_than_threads_and_places_is_refused_at_once(gate: Gate) -> None:
    pool = ThreadPool("sums", threads=2, waiting=3)
    calls = [asyncio.ensure_future(pool.run(gate.wait)) for _ in range(5)]
    for _ in range(2):
        await asyncio.to_thread(gate.entered.acquire)
    assert (pool.busy(), pool.waiting()) == (2, 3)
    with pytest.raises(ThreadPoolFull, match="thread pool sums: all threads are busy"):
        await pool.run(gate.wait)
    gate.opened.set()
    assert set(await asyncio.gather(*calls)) == {"sums-0", "sums-1"}


async def test_a_cancelled_call_that_waited_is_not_made_and_leaves_its_place(gate: Gate) -> None:
    pool, made = ThreadPool("sums", threads=1, waiting=1), []
    held = asyncio.ensure_future(pool.run(gate.wait))
    await asyncio.to_thread(gate.entered.acquire)
    for number in range(5):
        waiting = asyncio.ensure_future(pool.run(made.append, number))
        await asyncio.sleep(0)
        assert pool.waiting() == 1
        waiting.cancel()
        await asyncio.wait([waiting])
        assert pool.waiting() == 0
    gate.opened.set()
    await held
    await pool.run(made.append, "the next")
    assert made == ["the next"]


async def test_an_idle_thread_is_used_before_another_is_made() -> None:
    pool = ThreadPool("sums", threads=8, waiting=1)
    names = {await pool.run(lambda: threading.current_thread().name) for _ in range(20)}
    assert len(names) <= 2  # a thread that delivered its result may not be idle yet


async def test_after_its_shutdown_a_pool_ends_what_was_queued_and_takes_nothing(gate: Gate) -> None:
    pool = ThreadPool("sums", threads=1, waiting=1)
    calls = [pool.submit(gate.wait) for _ in range(2)]
    pool.shutdown(wait=True)  # returns although a call is running
    with pytest.raises(RuntimeError, match="is shut down"):
        pool.submit(gate.wait)
    gate.opened.set()
    assert [await asyncio.to_thread(call.result, 60) for call in calls] == ["sums-0"] * 2


def test_a_call_that_never_returns_does_not_keep_the_process_or_its_event_loop_from_ending() -> None:
    program = """
import asyncio, threading
from service.concurrency import thread_pools

async def main():
    asyncio.get_running_loop().set_default_executor(thread_pools.event_loop_pool())
    for pool in thread_pools.POOLS:
        pool.submit(threading.Event().wait)
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)

asyncio.run(main())
"""
    began = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert ended.returncode == 0
    assert time.monotonic() - began < 30


def test_every_purpose_has_its_name_and_its_bounds() -> None:
    assert len({pool.name for pool in POOLS}) == len(POOLS)
    assert all(0 < pool.threads <= 16 for pool in POOLS)


def test_no_part_of_the_service_sends_a_call_to_the_default_pool() -> None:
    words = ("asyncio.to_thread", "run_in_executor(None", "run_in_threadpool", "to_thread.run_sync")
    found = [path.name for path in SERVICE.rglob("*.py") if any(word in path.read_text() for word in words)]
    assert found == []


def test_every_route_and_dependency_is_a_coroutine() -> None:
    def calls(dependant: Dependant) -> Iterator[object]:
        yield dependant.call
        for each in dependant.dependencies:
            yield from calls(each)

    routes = [route for module in MODULES for route in module.router.routes if isinstance(route, APIRoute)]
    assert len(routes) > 20
    found = {call for route in routes for call in calls(route.dependant)}
    assert [
        call for call in found if not iscoroutinefunction(call)
    ] == []  # plain functions would share anyio's 40 threads
