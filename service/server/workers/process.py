"""One worker process as its supervisor sees it: state, messages and signals."""

import asyncio
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from service.errors import ReloadRejected
from service.server.workers.channel import Channel, Message
from service.server.workers.reload import describe


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """One process, from its start to its end.

    Attributes:
        digest: of the manifest of the model that it started with.
        heard_at_s: time of its last message, on the monotonic clock.
        started: whether it has ever served; `up`: whether it serves now.
        ready: whether its own model is ready; `all_ready`: whether it also knows that all are.
        error: why it cannot start.
    """

    index: int
    process: asyncio.subprocess.Process
    channel: Channel
    heard_at_s: float
    lines: Sequence[str] = ()
    digest: str = ""
    started: bool = False
    up: bool = False
    ready: bool = False
    all_ready: bool = False
    error: str = ""
    answers: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    ended: bool = False

    async def ask(self, kind: str, **content: object) -> Message:
        """Send a message and return the answer; an error of kind `rejected` if the worker ends before."""
        if self.ended:
            return self._end_answer()
        self.tell(kind, **content)
        return await self.answers.get()

    def tell(self, kind: str, **content: object) -> None:
        """Send a message."""
        self.channel.send(kind, **content)

    def end(self) -> None:
        """The process has ended: answer what it was asked."""
        self.ended, self.up, self.ready, self.all_ready = True, False, False, False
        self.answers.put_nowait(self._end_answer())

    def restart(self) -> None:
        """Let it drain and end, so that it starts again."""
        self.up = False
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process still runs."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    def _end_answer(self) -> Message:
        return describe(ReloadRejected(f"worker {self.index} ended before the new model was loaded; reload again"))
