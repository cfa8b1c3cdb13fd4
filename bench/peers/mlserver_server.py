"""MLServer with adaptive batching.

Settings: `max_batch_size` and `max_batch_time` (https://docs.seldon.ai/mlserver/user-guide/adaptive-batching), which
are off by default; 5 ms, as for LitServe; no parallel workers, which are for more processors than one
(https://docs.seldon.ai/mlserver/user-guide/parallel-inference); no access log, metrics or compression. Pictures come as
base64 in the protocol's JSON and are decoded after batching, as its codec does it. It never refuses a request.
"""

import asyncio
import os

from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from bench.peers.bare import MAX_BATCH_SIZE, Bare
from bench.peers.names import HOST, PORT


class Cells(MLModel):
    """The model that MLServer calls with a batch of requests, joined to one."""

    async def load(self) -> bool:
        """Open the session."""
        self.bare = Bare()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """A tensor of base64 JPEGs (N, 1) to probabilities and attention, in a thread so that the loop goes on."""
        return await asyncio.to_thread(self._answer, payload)

    def _answer(self, payload: InferenceRequest) -> InferenceResponse:
        pictures = [self.bare.read(picture) for picture in Base64Codec.decode_input(payload.inputs[0])]
        answers = self.bare.stacked(pictures)
        outputs = [NumpyCodec.encode_output(name, array) for name, array in answers.items()]
        return InferenceResponse(model_name=self.name, outputs=outputs)


def settings() -> Settings:
    """Of the server."""
    return Settings(
        host=HOST,
        http_port=PORT,
        grpc_port=int(os.environ["BENCH_SECOND_PORT"]),
        parallel_workers=0,
        metrics_endpoint=None,
        gzip_enabled=False,
        debug=False,
        metrics_dir=os.environ["BENCH_FOLDER"],
    )


if __name__ == "__main__":
    model = ModelSettings(name="cells", implementation=Cells, max_batch_size=MAX_BATCH_SIZE, max_batch_time=0.005)
    asyncio.run(MLServer(settings()).start([model]))
