"""Runs an awaitable in the current task up to its first wait, so that the caller knows whether it waits at all."""

from collections.abc import Awaitable, Generator
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Started(Generic[Result]):
    """An awaitable after its first step, whose exception is raised here. Await it for the result, at most once.

    Attributes:
        waits: whether it has to wait; else `result` is there.
    """

    def __init__(self, awaitable: Awaitable[Result]) -> None:
        self._steps: Generator[Any, Any, Result] = awaitable.__await__()
        self.waits = True
        try:
            self._awaited = next(self._steps)
        except StopIteration as end:
            self.waits = False
            self.result: Result = end.value

    def __await__(self) -> Generator[Any, Any, Result]:
        awaited = self._awaited
        while True:
            try:
                sent = yield awaited
            except BaseException as error:  # a cancellation, which the awaitable answers
                step, argument = self._steps.throw, error
            else:
                step, argument = self._steps.send, sent
            try:
                awaited = step(argument)
            except StopIteration as end:
                result: Result = end.value
                return result
