"""BentoML with adaptive batching.

Settings (https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html): `batchable`, a `max_batch_size` that
takes a whole request of 64 pictures, and `max_latency_ms` at the deadline, past which it sheds what it predicts to be
late; `traffic.timeout` and `traffic.max_concurrency` (https://docs.bentoml.com/en/latest/reference/bentoml/configurations.html)
at the deadline and at marrowlens' number of places; one worker, since a second would only share the same processors.
A batchable route takes a list, so it also has a batch route: many files under the one field name.
"""

from pathlib import Path
from typing import Any

import bentoml

from bench.peers.bare import DEADLINE_S, Bare
from bench.peers.names import MAX_QUEUE_SIZE

#: Of one request, and so the most that its dispatcher puts together.
MAX_REQUEST_PICTURES = 64


@bentoml.service(
    workers=1,
    traffic={"timeout": DEADLINE_S, "max_concurrency": MAX_QUEUE_SIZE},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Cells:
    """One route."""

    def __init__(self) -> None:
        self.bare = Bare()

    @bentoml.api(batchable=True, max_batch_size=MAX_REQUEST_PICTURES, max_latency_ms=int(1000 * DEADLINE_S))
    def classify(self, images: list[Path]) -> list[dict[str, list[Any]]]:
        """JPEGs in, as many answers out."""
        answers = self.bare.answers([self.bare.read(image.read_bytes()) for image in images])
        return [{name: values.tolist() for name, values in answer.items()} for answer in answers]
