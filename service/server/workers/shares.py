"""How the settings of a service divide among its workers."""

from typing import Any

from service.config.settings import Settings
from service.runtime.hardware import cpu_budget


def worker_count(settings: Settings) -> int:
    """The number of worker processes; `auto` is one for each CPU of the quota."""
    return cpu_budget() if settings.workers == "auto" else settings.workers


def worker_settings(settings: Settings, count: int) -> Settings:
    """The settings of one worker of `count`.

    Connections, pictures in flight and the drift window are those of the service divided by `count`, rounded up.
    Threads that are not set share the CPU budget. Sizes of bodies stay.
    """
    threads = max(1, cpu_budget() // count)
    shares: dict[str, Any] = {
        "workers": count,
        "max_connections": -(-settings.max_connections // count),
        "max_queue_size": max(settings.max_batch_size, -(-settings.max_queue_size // count)),
        "drift_window": -(-settings.drift_window // count),
        "intra_op_threads": settings.intra_op_threads or threads,
        "decode_threads": settings.decode_threads or threads,
    }
    return settings.model_copy(update=shares)
