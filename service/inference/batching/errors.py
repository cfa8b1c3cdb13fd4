"""Errors of the batcher: why an item got no result. Standard library only."""


class QueueFull(Exception):
    """Refused at once: the queue is full, or the result would be too late. `retry_after_s` estimates the wait."""

    def __init__(self, queued: int, limit: int, retry_after_s: float) -> None:
        super().__init__(f"{queued} of {limit} places in the queue are taken")
        self.queued = queued
        self.limit = limit
        self.retry_after_s = retry_after_s


class DeadlineExpired(Exception):
    """The item's deadline passed before its result was ready."""

    def __init__(self, message: str = "the deadline passed") -> None:
        super().__init__(message)


class BatcherClosed(Exception):
    """The batcher is closing, closed or not started; the item was not computed."""


class RunFailed(Exception):
    """The call for this item's batch failed. `__cause__` is the call's exception, shared by the whole batch."""


class WrongOutputCount(RunFailed):
    """The call returned another number of results than items, so results cannot be assigned to items."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"{expected} items went into the call and {got} results came out")
        self.expected = expected
        self.got = got


def prepare_error(error: BaseException) -> Exception:
    """The exception for the caller of an item whose preparation raised `error`."""
    # A future cannot carry StopIteration, and SystemExit would end the event loop.
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return run_error(error)


def run_error(cause: BaseException) -> RunFailed:
    """A new exception for one caller in a batch that raised `cause`; a shared one would collect all tracebacks."""
    if isinstance(cause, WrongOutputCount):
        return WrongOutputCount(cause.expected, cause.got)
    failed = RunFailed("the call for this item's batch failed")
    failed.__cause__ = cause
    return failed
