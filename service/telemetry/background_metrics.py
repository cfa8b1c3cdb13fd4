"""What a scraper is told of background tasks and thread pools, in Prometheus' terms."""

from typing import get_args

from service.concurrency.supervisor import TaskName
from service.concurrency.thread_pools import POOLS
from service.telemetry.metric_registry import Registry

#: What fails outside of any task: a thread that ends by an exception, a callback of the event loop.
ELSEWHERE = ("event_loop", "thread")


class BackgroundMetrics:
    """`supervisor.Observer`, and gauges of the thread pools, in one registry."""

    def __init__(self, registry: Registry) -> None:
        names = get_args(TaskName)
        self._running = registry.gauge(
            "marrowlens_background_task_running",
            "Whether a background task runs: 0 from its failure until it has run for 10 s again. No series: it is "
            "not set up.",
            {"task": names},
            unit="1 or 0",
        )
        self._failures = registry.counter(
            "marrowlens_background_task_failures_total",
            "Background tasks that ended by an exception. They are started again, after 1 s to 60 s; `reload` and "
            "`model_retirement` are done once. `thread` and `event_loop`: outside of any task.",
            {"task": (*names, *ELSEWHERE)},
        )
        for name in (*names, *ELSEWHERE):
            self._failures.labels(name)
        pool = {"pool": tuple(each.name for each in POOLS)}
        busy = registry.gauge(
            "marrowlens_thread_pool_busy_threads", "Threads of a pool that are in a call which may block.", pool
        )
        limit = registry.gauge("marrowlens_thread_pool_limit_threads", "The most threads that a pool has.", pool)
        waiting = registry.gauge(
            "marrowlens_thread_pool_waiting_calls", "Calls that wait for a thread of the pool.", pool
        )
        for each in POOLS:
            limit.labels(each.name).set(each.threads)
            busy.labels(each.name).set_function(each.busy)
            waiting.labels(each.name).set_function(each.waiting)

    def running(self, task: str, running: bool) -> None:
        """A task runs, or has failed and waits to be started again."""
        self._running.labels(task).set(running)

    def failed(self, task: str) -> None:
        """A task, a thread or a callback of the event loop ended by an exception."""
        self._failures.labels(task).inc()
