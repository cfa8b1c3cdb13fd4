"""Why an item got no result: what the batcher raises. Knows no HTTP; `service.problems` translates."""


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
