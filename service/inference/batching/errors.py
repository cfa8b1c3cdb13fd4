"""Why an item got no result: what the batcher raises. Knows no HTTP; `service.api.problems` translates."""


class QueueFull(Exception):
    """Refused at once: every place is taken. `retry_after_s` is when they will be free, at the measured rate."""

    def __init__(self, queued: int, limit: int, retry_after_s: float) -> None:
        super().__init__(f"{queued} of {limit} places are taken")
        self.queued = queued
        self.limit = limit
        self.retry_after_s = retry_after_s


class DeadlineExpired(Exception):
    """The item's deadline passed before its result was there."""


class BatcherClosed(Exception):
    """The batcher is closing, closed or was never started: the item was not computed."""


class RunFailed(Exception):
    """The call for this item's batch failed. Its own exception is the `__cause__`, shared by the whole batch."""


class WrongOutputCount(RunFailed):
    """The call returned another number of results than it was given items: nobody can say which result is whose."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"{expected} items went into the call and {got} results came out")
        self.expected = expected
        self.got = got


def too_late() -> DeadlineExpired:
    """For an item that was not computed in time."""
    return DeadlineExpired("the deadline passed")


def own(error: BaseException) -> Exception:
    """What `prepare` raised, as its caller may get it."""
    # A future cannot carry StopIteration, and on the loop a SystemExit would end more than one caller.
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return failure(error)


def failure(cause: BaseException) -> RunFailed:
    """What one caller of a failed call gets."""
    # One exception for each caller: raising a shared one would braid their tracebacks.
    if isinstance(cause, WrongOutputCount):
        return WrongOutputCount(cause.expected, cause.got)
    failed = RunFailed("the call for this item's batch failed")
    failed.__cause__ = cause
    return failed
