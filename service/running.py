"""What one running service holds, and how a route asks for it. Made by the app's lifespan; no globals."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from service.classify import Classifier
from service.errors import NotReady
from service.metrics import Metrics
from service.settings import Settings
from service.uploads import UploadMemory


@dataclass(slots=True)
class Running:
    """The parts of one service. `classifier` is None before the start and after the end.

    `large_json` is held while a large JSON body is parsed: it grows in memory, and Python parses one at a time anyway.
    """

    settings: Settings
    metrics: Metrics
    uploads: UploadMemory
    classifier: Classifier | None = None
    draining: bool = False
    large_json: asyncio.Lock = field(default_factory=asyncio.Lock)

    def serving(self) -> Classifier:
        """The classifier.

        Raises:
            NotReady: there is none yet, or none any more.
        """
        if self.classifier is None:
            raise NotReady("the model is not loaded")
        return self.classifier

    def check_ready(self) -> None:
        """Return when new pictures are welcome.

        Raises:
            NotReady: and why.
        """
        if self.draining:
            raise NotReady("the service is stopping; what it accepted is still answered")
        if not self.serving().ready():
            raise NotReady("the model is not warm, or has stopped answering")

    def deadline(self) -> float:
        """Until when a picture that came in now must be answered, on the monotonic clock."""
        return time.monotonic() + self.settings.request_timeout_s


def running(request: Request) -> Running:
    """The service that this request came to."""
    state: Running = request.app.state.running
    return state


def request_id(request: Request) -> str:
    """The id under which the request is answered and logged."""
    identifier: str = request.scope["state"]["request_id"]
    return identifier


RunningService = Annotated[Running, Depends(running)]
RequestId = Annotated[str, Depends(request_id)]
