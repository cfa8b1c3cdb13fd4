"""LitServe with dynamic batching.

Settings: `max_batch_size` and `batch_timeout` (https://lightning.ai/docs/litserve/features/batching), 5 ms because with
0 its loop spins on a queue and takes the processor from the model; `fast_queue=True`, ZeroMQ for the way back, for
high request rates (its constructor's documentation); one worker and one API server, since more would only share the
same processors (https://lightning.ai/docs/litserve/features/multiple-endpoints); the deadline as `timeout`, which it
checks when it takes a request from its queue. An answer is written by orjson in the worker and passed on as it is.
"""

from typing import Any

import litserve
import numpy as np
import orjson
from fastapi import Response, UploadFile
from numpy.typing import NDArray

from bench.peers.bare import DEADLINE_S, MAX_BATCH_SIZE, Bare
from bench.peers.names import HOST, PORT

Answer = dict[str, Any]


class Cells(litserve.LitAPI):
    """decode_request for each picture of a batch, predict once, encode_response for each."""

    def setup(self, device: str) -> None:  # noqa: ARG002 (signature is LitServe's)
        """Called by LitServe in its worker."""
        self.bare = Bare()

    def decode_request(self, request: UploadFile) -> NDArray[np.uint8]:
        """A JPEG to (S, S, 3)."""
        return self.bare.read(request.file.read())

    def predict(self, pictures: list[NDArray[np.uint8]]) -> list[Answer]:
        """A batch."""
        return self.bare.answers(pictures)

    def encode_response(self, output: Answer) -> Response:
        """One answer."""
        return Response(orjson.dumps(output, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


if __name__ == "__main__":
    api = Cells(max_batch_size=MAX_BATCH_SIZE, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True, timeout=DEADLINE_S)
    server.run(host=HOST, port=PORT, num_api_servers=1, generate_client_file=False, log_level="warning")
