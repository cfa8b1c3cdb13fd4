"""What a worker process is told when it starts."""

from dataclasses import dataclass

from service.concurrency.worker import Worker
from service.config.settings import Settings
from service.server.workers.reload import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The work of one worker process.

    Attributes:
        settings: of the worker; see `shares.worker_settings`.
        served: the model of the workers that run already; this worker must serve the same one.
    """

    settings: Settings
    worker: Worker
    access_log: bool
    served: ServedModel
