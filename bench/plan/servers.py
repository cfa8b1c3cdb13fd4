"""The compared servers: pinned requirements, start command, request format and answer format."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from bench.peers.decoders import OURS as OUR_DECODER
from bench.peers.decoders import PILLOW
from bench.peers.names import ASKED
from bench.plan.plan import MODELS, NETWORK
from bench.traffic.wire import form, infer, infer_json

#: The same for all, so that servers differ and not what they serve.
ONNXRUNTIME = "onnxruntime==1.32.0"
#: What bench/peers/bare.py imports.
BARE = (ONNXRUNTIME, "orjson==3.13.0", "pillow==13.0.0")
FASTAPI = ("fastapi==0.165.0", "uvicorn[standard]==0.54.0", "python-multipart", *BARE)

Request = Callable[[Sequence[bytes]], bytes]
#: (N, C) probabilities and (N, K, h, w) attention of an answer; (N, 0) if the model has no attention maps.
Answer = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an answer may be from the bare session's, in fp32, to the same picture."""

    probability: float = 1e-3  # batches of other sizes add up in another order; a wrong picture's is off by far more
    attention: float = 1e-2
    margin: float = 0.0  # by which the answer's first class may be less probable than the right one


SAME_PRECISION = Tolerance()


@dataclass(frozen=True, slots=True)
class Server:
    """One server. Placeholders such as `{port}` in command and variables are filled at the start."""

    name: str
    title: str
    requirements: tuple[str, ...]
    command: tuple[str, ...]
    one: Request
    read: Callable[[bytes], Answer]
    decoder: str = PILLOW  # of bench.peers.decoders: how it makes pixels of a JPEG
    peer: bool = True  # whether one would take it instead of ours; false for what only explains a figure
    many: Request | None = None  # a request of many pictures; None: there is no such route
    read_many: Callable[[bytes], Answer] | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    python: str = sys.executable  # that its environment is made with
    versions: tuple[str, ...] = ()  # distributions that are named in the table
    models: tuple[str, ...] = MODELS  # that it is measured with
    tolerance: Tolerance = SAME_PRECISION


def _marrowlens(body: bytes) -> Answer:
    return _stacked([_reading(orjson.loads(body))])


def _marrowlens_batch(body: bytes) -> Answer:
    return _stacked([_reading(item["result"]) for item in orjson.loads(body)["results"]])


def _reading(said: dict[str, Any]) -> tuple[Any, Any]:
    scales = said["attention"]["scales"] if "attention" in said else []
    return list(said["probabilities"].values()), [scale["values"] for scale in scales]


def _plain(body: bytes) -> Answer:
    said = orjson.loads(body)
    return _stacked([tuple(said.get(name, []) for name in ASKED)])


def _list(body: bytes) -> Answer:
    return _stacked([tuple(said.get(name, []) for name in ASKED) for said in orjson.loads(body)])


def _tensors(body: bytes) -> Answer:
    outputs = orjson.loads(body)["outputs"]
    arrays = {output["name"]: np.array(output["data"]).reshape(output["shape"]) for output in outputs}
    probabilities = arrays["probabilities"]
    return probabilities, arrays.get("attention", np.empty((len(probabilities), 0)))


def _stacked(answers: Sequence[tuple[Any, ...]]) -> Answer:
    probabilities, attention = zip(*answers, strict=True)
    return np.array(probabilities, np.float64), np.array(attention, np.float64)


def _form(path: str, name: str) -> Request:
    return lambda pictures: form(path, name, pictures)


def _module(name: str) -> tuple[str, ...]:
    return "{python}", "-m", f"bench.peers.{name}"


OURS, OURS_BF16 = "marrowlens", "marrowlens-bf16"
_MARROWLENS = Server(
    OURS,
    "marrowlens",
    ("--editable", ".[service,cpu]", ONNXRUNTIME),
    ("{bin}/marrowlens", "serve", "--port", "{port}", "--artefact", "{artefact}"),
    _form("/classify", "image"),
    _marrowlens,
    decoder=OUR_DECODER,
    peer=False,
    many=_form("/classify/batch", "images"),
    read_many=_marrowlens_batch,
    variables={"MARROWLENS_REQUEST_TIMEOUT_S": "{deadline_s}"},
    versions=("marrowlens", "fastapi", "uvicorn", "onnxruntime", "numpy"),
)
SERVERS: dict[str, Server] = {
    server.name: server
    for server in (
        _MARROWLENS,
        # Its service refuses to start on a processor without bf16; the bench then leaves it out and says why.
        replace(
            _MARROWLENS,
            name=OURS_BF16,
            title="marrowlens, bf16",
            requirements=("--editable", ".[service,openvino]"),
            variables={**_MARROWLENS.variables, "MARROWLENS_PRECISION": "bf16"},
            versions=("marrowlens", "fastapi", "uvicorn", "onnxruntime-openvino", "numpy"),
            models=(NETWORK,),
            # Largest difference of 11,672 cells: 0.094 (docs/providers.md); maps move more, being scaled to 0..1.
            tolerance=Tolerance(probability=0.15, attention=0.5, margin=0.15),
        ),
        Server(
            "fastapi",
            "FastAPI + onnxruntime",
            FASTAPI,
            _module("fastapi_server"),
            _form("/classify", "image"),
            _plain,
            versions=("fastapi", "uvicorn", "onnxruntime", "numpy"),
        ),
        Server(
            "fastapi-decoder",
            "FastAPI + onnxruntime, marrowlens' decoder",
            (*FASTAPI, "simplejpeg", "cykooz.resizer"),
            _module("fastapi_server"),
            _form("/classify", "image"),
            _plain,
            decoder=OUR_DECODER,
            peer=False,
            versions=("fastapi", "uvicorn", "onnxruntime", "numpy", "simplejpeg"),
        ),
        Server(
            "litserve",
            "LitServe",
            ("litserve==0.2.19", "python-multipart", *BARE),
            _module("litserve_server"),
            _form("/predict", "request"),
            _plain,
            versions=("litserve", "fastapi", "uvicorn", "onnxruntime", "numpy"),
        ),
        Server(
            "bentoml",
            "BentoML",
            ("bentoml==1.4.40", *BARE),
            ("{bin}/bentoml", "serve", "bench.peers.bentoml_server:Cells", "--host", "127.0.0.1", "--port", "{port}"),
            _form("/classify", "images"),
            _list,
            many=_form("/classify", "images"),
            read_many=_list,
            variables={"BENTOML_HOME": "{folder}/bentoml", "BENTOML_DO_NOT_TRACK": "True"},
            versions=("bentoml", "starlette", "uvicorn", "onnxruntime", "numpy"),
        ),
        Server(
            "pytriton",
            "pytriton (Triton's batcher)",
            ("nvidia-pytriton==0.7.0", "numpy<2", *BARE),
            _module("pytriton_server"),
            lambda pictures: infer("/v2/models/cells/infer", "image", pictures),
            _tensors,
            many=lambda pictures: infer("/v2/models/cells/infer", "image", pictures),
            read_many=_tensors,
            python="/usr/bin/python3",
            versions=("nvidia-pytriton", "onnxruntime", "numpy"),
        ),
        Server(
            "mlserver",
            "MLServer",
            ("mlserver==1.7.1", *BARE),
            _module("mlserver_server"),
            lambda pictures: infer_json("/v2/models/cells/infer", "image", pictures),
            _tensors,
            many=lambda pictures: infer_json("/v2/models/cells/infer", "image", pictures),
            read_many=_tensors,
            versions=("mlserver", "fastapi", "uvicorn", "onnxruntime", "numpy"),
        ),
        Server(
            "ray-serve",
            "Ray Serve",
            ("ray[serve]==2.60.0", "python-multipart", *BARE),
            _module("ray_serve_server"),
            _form("/classify", "image"),
            _plain,
            variables={"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"},
            versions=("ray", "starlette", "uvicorn", "onnxruntime", "numpy"),
        ),
    )
}

#: What the load generator can do at most; no competitor, and run in the generator's own environment.
CEILING = Server(
    "ceiling",
    "load generator alone",
    (),
    _module("fixed_server"),
    _form("/classify", "image"),
    lambda _: (np.empty((0, 0)), np.empty((0, 0, 0, 0))),
    versions=("uvloop",),
)


def chosen(names: Sequence[str]) -> list[Server]:
    """The servers with these names; all if none is named.

    Raises:
        ValueError: there is no such server.
    """
    unknown = set(names) - set(SERVERS)
    if unknown:
        raise ValueError(f"no such server: {', '.join(sorted(unknown))}; there are {', '.join(SERVERS)}")
    return [SERVERS[name] for name in dict.fromkeys(names or SERVERS)]
