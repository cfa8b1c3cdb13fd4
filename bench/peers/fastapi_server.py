"""FastAPI and onnxruntime without batching: the simplest server.

Settings: the route is a plain `def`, so that decoding and the model run in the thread pool and not on the event loop
(https://fastapi.tiangolo.com/async/#path-operation-functions); one process, since a second would only share the same
processors (https://fastapi.tiangolo.com/deployment/server-workers/); uvicorn with uvloop and httptools
(https://www.uvicorn.org/settings/#implementation); orjson writes the answer without a response model
(https://fastapi.tiangolo.com/advanced/custom-response/). It never refuses a request.
"""

import orjson
import uvicorn
from fastapi import FastAPI, Response, UploadFile

from bench.peers.bare import Bare
from bench.peers.names import HOST, PORT

app = FastAPI()
bare = Bare()


@app.post("/classify")
def classify(image: UploadFile) -> Response:
    """One JPEG in, one answer out."""
    (answer,) = bare.answers([bare.read(image.file.read())])
    body = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(app, host=HOST, port=PORT, loop="uvloop", http="httptools", log_level="warning", access_log=False)
