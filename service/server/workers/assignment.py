"""What a worker process is told when it starts."""

from dataclasses import dataclass

from service.concurrency.worker import Worker
from service.config.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The work of one worker process.

    Attributes:
        settings: of the worker; see `shares.worker_settings`.
    """

    settings: Settings
    worker: Worker
    access_log: bool
