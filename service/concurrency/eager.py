"""Runs an awaitable in the current task up to its first wait, so that the caller knows whether it waits at all."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Started(Generic[Result]):
    """An awaitable after its first step, whose exception is raised here. Await it for the result, or close it.

    Attributes:
        waits: whether it has to wait; else `result` is there.
    """

    def __init__(self, awaitable: Awaitable[Result]) -> None:
        self._steps: Generator[Any, Any, Result] = awaitable.__await__()
        self.waits = True
        try:
            self._awaited: Any = next(self._steps)
        except StopIteration as end:
            self.waits = False
            self.result: Result = end.value

    @property
    def future(self) -> "asyncio.Future[Any] | None":
        """The future that it waits for; None if it does not wait, or waits in another way."""
        return self._awaited if self.waits and isinstance(self._awaited, asyncio.Future) else None

    def close(self) -> None:
        """Stop waiting; there will be no result."""
        self._steps.close()
        self._awaited = None  # whose callbacks may hold this object

    def __await__(self) -> Generator[Any, Any, Result]:
        if not self.waits:
            return self.result
        awaited = self._awaited
        while True:
            resume: Callable[[], Any]
            try:
                yield awaited
            except BaseException as error:  # a cancellation, which the awaitable answers
                resume = partial(self._steps.throw, error)
            else:
                resume = partial(next, self._steps)
            try:
                awaited = resume()
            except StopIteration as end:
                result: Result = end.value
                return result
