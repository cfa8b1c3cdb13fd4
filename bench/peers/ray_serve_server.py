"""Ray Serve with dynamic request batching.

Settings: `serve.batch` around the model, as its guide has it
(https://docs.ray.io/en/latest/serve/advanced-guides/dyn-req-batch.html), with no wait; `RAY_SERVE_THROUGHPUT_OPTIMIZED`
(https://docs.ray.io/en/latest/serve/advanced-guides/performance.html), set in bench/plan/servers.py; as many
ongoing requests as marrowlens has places, and as many queued at the deadline; one replica, because a second would only
share the same processors. An answer is written by orjson and passed on as it is.
"""

import asyncio
import os

import orjson
import ray
from ray import serve
from ray.serve.config import HTTPOptions
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from bench.peers.bare import DEADLINE_S, MAX_BATCH_SIZE, Bare
from bench.peers.names import HOST, MAX_QUEUE_SIZE, PORT


class Cells:
    """One route: a form with the file `image`."""

    def __init__(self) -> None:
        self.bare = Bare()

    async def __call__(self, request: Request) -> Response:
        """One JPEG in, one answer out."""
        async with request.form() as form:
            upload = form["image"]
            assert isinstance(upload, UploadFile)
            picture = await upload.read()
        return Response(await self.answer(picture), media_type="application/json")

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=0, max_concurrent_batches=1)
    async def answer(self, pictures: list[bytes]) -> list[bytes]:
        """A batch, in a thread so that the loop goes on reading requests."""
        return await asyncio.to_thread(self._answers, pictures)

    def _answers(self, pictures: list[bytes]) -> list[bytes]:
        answers = self.bare.answers([self.bare.read(picture) for picture in pictures])
        return [orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY) for answer in answers]


if __name__ == "__main__":
    ray.init(num_cpus=int(os.environ["BENCH_THREADS"]), include_dashboard=False, log_to_driver=False)
    serve.start(http_options=HTTPOptions(host=HOST, port=PORT, request_timeout_s=DEADLINE_S))
    cells = serve.deployment(
        num_replicas=1,
        max_ongoing_requests=MAX_QUEUE_SIZE,
        max_queued_requests=MAX_QUEUE_SIZE,
        ray_actor_options={"num_cpus": 0},  # its threads are set by BENCH_THREADS; Serve's own actors need the cores
    )(Cells)
    serve.run(cells.bind(), blocking=True, route_prefix="/classify")
