"""The model that answers, and the state of one service around it: starting, ready, stopping."""

import time
from dataclasses import dataclass

from service.concurrency.supervisor import Supervisor
from service.config.settings import Settings
from service.errors import NotReady
from service.inference.classifier import Classifier
from service.telemetry.metrics import Metrics


@dataclass(slots=True, kw_only=True)
class Serving:
    """The model of one service and its state; `classifier` is None before the start and after the end."""

    settings: Settings
    metrics: Metrics
    background: Supervisor
    classifier: Classifier | None = None
    draining: bool = False
    _ends_at_s: float | None = None

    def begin_shutdown(self) -> None:
        """From now on `shutdown_timeout_s` runs, for everything together; once only."""
        if self._ends_at_s is None:
            self._ends_at_s = time.monotonic() + self.settings.shutdown_timeout_s

    def shutdown_left_s(self) -> float:
        """What is left of `shutdown_timeout_s`."""
        if self._ends_at_s is None:
            return self.settings.shutdown_timeout_s
        return max(0.0, self._ends_at_s - time.monotonic())

    def serving(self) -> Classifier:
        """The classifier.

        Raises:
            NotReady: there is none yet, or none any more.
        """
        if self.classifier is None:
            raise NotReady("the model is not loaded")
        return self.classifier

    def ready(self) -> bool:
        """Whether new pictures are welcome."""
        return not self.draining and self.classifier is not None and self.classifier.ready()

    def check_ready(self) -> None:
        """Return when new pictures are welcome.

        Raises:
            NotReady: and why.
        """
        if self.draining:
            raise NotReady("the service is stopping; what it accepted is still answered")
        if not self.serving().ready():
            raise NotReady("the model is not warm, or has stopped answering")
