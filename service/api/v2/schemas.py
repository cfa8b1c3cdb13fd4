"""Response documents of the Open Inference Protocol, and its inference bodies for OpenAPI.

Inference bodies are documented here only: `service.api.v2.codec` parses them, because validating a tensor of a million
numbers field by field would be slow.
"""

from typing import Any, Literal

from pydantic import Field

from model.contract import INPUT, OUTPUTS, RESEARCH_USE, Manifest
from service.api.examples import MODEL
from service.api.schemas import Document
from service.api.v2.codec import optional_parameters
from service.api.v2.outputs import DECISION_OUTPUTS, output_names, row_shape

PLATFORM = "onnxruntime_onnx"
Responses = dict[int | str, dict[str, Any]]
Parameter = bool | int | str


class ServerMetadata(Document):
    """The server and its protocol extensions."""

    name: str
    version: str
    extensions: list[str] = Field(examples=[["binary_tensor_data"]])


class ServerLive(Document):
    """Liveness of the process."""

    live: bool


class ServerReady(Document):
    """Readiness of the server."""

    ready: bool


class ModelReady(Document):
    """Readiness of the model."""

    name: str
    ready: bool


class TensorMetadata(Document):
    """One tensor of the model. A size of -1 is variable."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Document):
    """The model's tensors. The input also accepts BYTES of the shape [-1]: encoded pictures."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Parameter] = Field(
        description="sha256 of the ONNX file and of its manifest; all classes in logit order, the unsupported classes "
        "and the inert parts of the network (if any), separated by commas; sha256 of the laboratory's own thresholds "
        "(if any); the research-use notice"
    )


class ResponseTensor(Document):
    """One output. Its numbers are in `data`, flat, or after the JSON if `parameters` has a `binary_data_size`."""

    name: str
    datatype: Literal["FP32"]
    shape: list[int]
    parameters: dict[str, Parameter] | None = None
    data: list[float] | None = None


class InferenceResponse(Document):
    """The outputs of all pictures, in the order sent."""

    model_name: str
    model_version: str
    id: str | None = Field(None, description="as in the request")
    parameters: dict[str, Parameter] = Field(
        description="sha256 of the ONNX file and of its manifest; the unsupported classes and the inert parts of the "
        "network (if any), separated by commas; sha256 of the laboratory's own thresholds (if any)"
    )
    outputs: list[ResponseTensor]


def model_metadata(manifest: Manifest) -> ModelMetadata:
    """The model in the protocol's terms."""
    size = manifest.preprocessing.input_size
    return ModelMetadata(
        name=manifest.name,
        versions=[manifest.version],
        platform=PLATFORM,
        inputs=[TensorMetadata(name=INPUT, datatype="UINT8", shape=[-1, size, size, 3])],
        outputs=[
            TensorMetadata(name=name, datatype="FP32", shape=[-1, *row_shape(manifest, name)])
            for name in output_names(manifest)
        ],
        parameters={
            "sha256": manifest.sha256,
            "manifest_sha256": manifest.digest,
            "classes": ",".join(manifest.codes),
            "unsupported": ",".join(manifest.unsupported),
            **optional_parameters(manifest),
            "notice": RESEARCH_USE,
        },
    )


_HEADER = "Inference-Header-Content-Length"
_LENGTH = {"description": "number of JSON bytes before the binary data", "schema": {"type": "integer", "minimum": 1}}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_STRING, _FLAG = {"type": "string"}, {"type": "boolean"}


def _object(required: list[str], description: str = "", **properties: Any) -> dict[str, Any]:
    found = {"type": "object", "required": required, "properties": properties}
    return {**found, "description": description} if description else found


_PARAMETERS = _object(
    [],
    timeout={"type": "integer", "minimum": 0, "description": "timeout of the whole request in microseconds; 0: none"},
    binary_data_output={**_FLAG, "description": "default for the outputs: binary data or JSON"},
) | {"additionalProperties": False}
_REQUEST_TENSOR = _object(
    ["name", "datatype", "shape"],
    name={"const": INPUT},
    datatype={
        "enum": ["BYTES", "UINT8"],
        "description": "encoded pictures, [N], or decoded RGB ones, [N, S, S, 3]",
    },
    shape={"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 4},
    parameters=_object(
        [],
        binary_data_size={
            "type": "integer",
            "minimum": 0,
            "description": "bytes of this tensor after the JSON",
        },
        content_type={"const": "base64", "description": "required for BYTES in JSON"},
    )
    | {"additionalProperties": False},
    data={"type": "array", "description": "base64 strings, or integers of 0..255, flat or in rows", "items": {}},
)
_REQUEST_OUTPUT = _object(
    ["name"],
    name={"enum": [*OUTPUTS, *DECISION_OUTPUTS]},
    parameters=_object([], binary_data=_FLAG) | {"additionalProperties": False},
)
_REQUEST = _object(
    ["inputs"],
    id=_STRING,
    parameters=_PARAMETERS,
    inputs={"type": "array", "minItems": 1, "maxItems": 1, "items": _REQUEST_TENSOR},
    outputs={"type": "array", "items": _REQUEST_OUTPUT, "description": "the outputs to return; default: all"},
)

#: Request of `POST …/infer`.
INFERENCE_REQUEST: dict[str, Any] = {
    "parameters": [{"name": _HEADER, "in": "header", "required": False, **_LENGTH}],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _REQUEST}, "application/octet-stream": _BINARY},
    },
}

#: Response of `POST …/infer`: JSON, or JSON followed by the outputs requested as binary data.
INFERENCE_RESPONSE: Responses = {
    200: {
        "headers": {_HEADER: _LENGTH},
        "content": {
            "application/json": {
                "example": {
                    "model_name": MODEL["name"],
                    "model_version": MODEL["version"],
                    "id": "42",
                    "parameters": {
                        "sha256": MODEL["sha256"],
                        "manifest_sha256": MODEL["manifest_sha256"],
                        "unsupported": ",".join(MODEL["unsupported"]),
                    },
                    "outputs": [{"name": "embedding", "datatype": "FP32", "shape": [1, 3], "data": [0.5, -1.25, 2.0]}],
                }
            },
            "application/octet-stream": _BINARY,
        },
    }
}
