"""An awaitable after its first step: whether it waits, its result, its cancellation."""

import asyncio
from collections.abc import Awaitable

import pytest

from service.concurrency.eager import Started


async def at_once(value: int) -> int:
    return value


async def after(*futures: Awaitable[int]) -> int:
    return sum([await each for each in futures])


def future(value: int | None = None) -> "asyncio.Future[int]":
    made: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    if value is not None:
        made.set_result(value)
    return made


async def test_what_does_not_wait_has_its_result_at_once() -> None:
    started = Started(at_once(3))
    assert (started.waits, started.result, started.future, await started) == (False, 3, None, 3)


async def test_what_waits_goes_on_where_it_stopped() -> None:
    first, second = future(), future()
    started = Started(after(first, second, future(5)))
    assert (started.waits, started.future) == (True, first)
    asyncio.get_running_loop().call_soon(first.set_result, 1)
    asyncio.get_running_loop().call_later(0, second.set_result, 2)
    assert await started == 8


async def test_a_turn_of_the_loop_is_a_wait_for_no_future() -> None:
    started = Started(asyncio.sleep(0, 4))
    assert (started.waits, started.future, await started) == (True, None, 4)


async def test_exceptions_of_every_step_are_raised() -> None:
    failed = future()
    failed.set_exception(LookupError("first"))
    with pytest.raises(LookupError, match="first"):
        await Started(after(failed))
    with pytest.raises(ZeroDivisionError):
        Started(dividing())
    waiting = future()
    started = Started(after(waiting))
    waiting.set_exception(LookupError("later"))
    with pytest.raises(LookupError, match="later"):
        await started


async def dividing() -> float:
    return 1 / 0


async def test_a_cancellation_reaches_the_awaitable_which_may_wait_again() -> None:
    told: list[str] = []
    last = future()

    async def stubborn() -> int:
        try:
            await future()
        except asyncio.CancelledError:
            told.append("cancelled")
        return await last

    started = Started(stubborn())
    task = asyncio.ensure_future(asyncio.wait_for(started, None))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert told == ["cancelled"] and not task.done()
    last.set_result(7)
    assert await task == 7


async def test_closing_ends_the_wait_and_cleans_up() -> None:
    told: list[str] = []

    async def tidy() -> None:
        try:
            await future()
        finally:
            told.append("closed")

    started = Started(tidy())
    started.close()
    assert (told, started.future) == (["closed"], None)
