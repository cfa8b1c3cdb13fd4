"""How fast a batcher answers, measured as it goes: what a Retry-After and a refusal in good time are made of.

Knows ends of batches. Knows no clock, no queue and no items: the standard library only.
"""

#: What one more batch counts against those before it.
WEIGHT = 0.2


class Rate:
    """Seconds from one result to the next while there is work, as a moving average over batches."""

    def __init__(self) -> None:
        self._item_s: float | None = None
        self._ended = 0.0

    def batch(self, count: int, *, queued_at: float, ended: float) -> None:
        """A batch of `count` has ended, whose first item came at `queued_at`.

        Measured from the end of the batch before, or from when there was something to do: preparation, the way to the
        runner and the wait for a core count too, as they do for whoever waits.
        """
        item_s = (ended - max(self._ended, queued_at)) / count
        self._item_s = item_s if self._item_s is None else (1 - WEIGHT) * self._item_s + WEIGHT * item_s
        self._ended = ended

    def known(self) -> bool:
        """Whether a batch has been measured."""
        return self._item_s is not None

    def drain_s(self, items: int) -> float:
        """Seconds until so many items are answered; 1 before the first measurement."""
        return 1.0 if self._item_s is None else items * self._item_s
