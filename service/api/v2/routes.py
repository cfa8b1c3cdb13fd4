"""Routes of the Open Inference Protocol v2, for clients of KServe and Triton."""

from contextlib import ExitStack
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from model.contract import Manifest
from service.api.disconnect import NO_STORE, BufferedResponse, while_connected
from service.api.openapi import problem_responses
from service.api.problems import PROTOCOL_PATH
from service.api.schemas import InferenceProblem
from service.api.state import AppState, AppStateDep
from service.api.uploads.body import raw_body
from service.api.uploads.json_text import INLINE_PARSE_BYTES
from service.api.uploads.memory_budget import MemoryReservation
from service.api.v2.codec import InferenceRequest, encode_answer, parse_request
from service.api.v2.inference import infer
from service.api.v2.schemas import (
    INFERENCE_REQUEST,
    INFERENCE_RESPONSE,
    InferenceResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
    model_metadata,
)
from service.concurrency.thread_pools import BODIES
from service.errors import AnswerTooLarge, MalformedBody, UnknownModel
from service.inference.classifier import Classifier

JSON_LENGTH = "Inference-Header-Content-Length"
#: Larger answers are encoded in a thread, so that other requests do not wait.
_INLINE_ENCODE_BYTES = 64 * 1024

Name = Annotated[str, Path(description="the model's name, as in `GET /model`", examples=["marrowlens-lite"])]
Version = Annotated[str, Path(description="the model's version", examples=["1.0.0"])]

router = APIRouter(prefix=PROTOCOL_PATH, tags=["open inference protocol"])
_NOT_FOUND = problem_responses(404, 503, form=InferenceProblem)
_INFERENCE = INFERENCE_RESPONSE | problem_responses(404, 408, 413, 415, 422, 429, 503, 504, form=InferenceProblem)


async def _named(name: Name, state: AppStateDep) -> Classifier:
    return _found(state, name)


async def _versioned(name: Name, version: Version, state: AppStateDep) -> Classifier:
    return _found(state, name, version)


Named = Annotated[Classifier, Depends(_named)]
Versioned = Annotated[Classifier, Depends(_versioned)]


@router.get("", summary="The server's metadata")
async def server_metadata() -> ServerMetadata:
    """The server's name and version, and the supported protocol extensions."""
    return ServerMetadata(name="marrowlens", version=version("marrowlens"), extensions=["binary_tensor_data"])


@router.get("/health/live", summary="Server liveness")
async def server_live() -> ServerLive:
    """Like `GET /health/live`."""
    return ServerLive(live=True)


@router.get("/health/ready", summary="Server readiness", responses=problem_responses(503, form=InferenceProblem))
async def server_ready(state: AppStateDep) -> ServerReady:
    """Like `GET /health/ready`: 503 if the server is not ready."""
    state.check_ready()
    return ServerReady(ready=True)


@router.get("/models/{name}", summary="The model's metadata", responses=_NOT_FOUND)
async def inference_model(classifier: Named) -> ModelMetadata:
    """Names, datatypes and shapes of the model's tensors. The input also accepts BYTES: encoded pictures."""
    return model_metadata(classifier.manifest)


@router.get("/models/{name}/versions/{version}", summary="Metadata of one model version", responses=_NOT_FOUND)
async def inference_model_version(classifier: Versioned) -> ModelMetadata:
    """The same, for one version of the model. Only the served version exists."""
    return model_metadata(classifier.manifest)


@router.get("/models/{name}/ready", summary="Model readiness", responses=_NOT_FOUND)
async def inference_model_ready(classifier: Named, state: AppStateDep) -> ModelReady:
    """503 if the model is not ready."""
    state.check_ready()
    return ModelReady(name=classifier.manifest.name, ready=True)


@router.get("/models/{name}/versions/{version}/ready", summary="Readiness of one model version", responses=_NOT_FOUND)
async def inference_model_version_ready(classifier: Versioned, state: AppStateDep) -> ModelReady:
    """503 if the model is not ready."""
    state.check_ready()
    return ModelReady(name=classifier.manifest.name, ready=True)


@router.post(
    "/models/{name}/infer",
    summary="Inference",
    response_model=InferenceResponse,
    responses=_INFERENCE,
    openapi_extra=INFERENCE_REQUEST,
)
async def inference(request: Request, classifier: Named, state: AppStateDep) -> Response:
    """Send pictures as one tensor; get the requested outputs, or all, as tensors.

    `image` is BYTES [N], each element one encoded picture, or UINT8 [N, S, S, 3], decoded and resized RGB. Tensors are
    JSON, or binary data after the JSON (Triton's `binary_tensor_data`). One unreadable picture fails the request; the
    error names its index. An output is a suggestion: a qualified person reads the cell and signs.
    """
    return await _inferred(request, classifier, state)


@router.post(
    "/models/{name}/versions/{version}/infer",
    summary="Inference with one model version",
    response_model=InferenceResponse,
    responses=_INFERENCE,
    openapi_extra=INFERENCE_REQUEST,
)
async def inference_version(request: Request, classifier: Versioned, state: AppStateDep) -> Response:
    """The same, with one version of the model. Only the served version exists."""
    return await _inferred(request, classifier, state)


def _found(state: AppState, name: str, version: str | None = None) -> Classifier:
    classifier = state.current_classifier()
    manifest = classifier.manifest
    if name != manifest.name or version not in (None, manifest.version):
        raise UnknownModel(manifest.name, manifest.version)
    return classifier


async def _inferred(request: Request, classifier: Classifier, state: AppState) -> Response:
    json_bytes = _json_bytes(request)
    with ExitStack() as stack:
        stack.enter_context(classifier.in_use())
        memory = stack.enter_context(state.reserve_memory(request))
        body = await raw_body(request, memory, state.limits)
        work = _answered(body, json_bytes, classifier, state, memory)
        chunks, json_bytes = await while_connected(request, work)
        headers = NO_STORE | ({} if json_bytes is None else {JSON_LENGTH: str(json_bytes)})
        media_type = "application/json" if json_bytes is None else "application/octet-stream"
        return BufferedResponse(
            chunks, stack.pop_all(), media_type=media_type, timeouts=state.limits.timeouts, headers=headers
        )


async def _answered(
    body: memoryview, json_bytes: int | None, classifier: Classifier, state: AppState, memory: MemoryReservation
) -> tuple[list[bytes | memoryview], int | None]:
    settings, manifest = state.settings, classifier.manifest
    parsed = await _parsed(body, json_bytes, manifest, state)
    size_bytes = parsed.answer_bytes(manifest)
    if size_bytes > settings.max_body_bytes:
        raise AnswerTooLarge(settings.max_body_bytes, "send fewer pictures, or request fewer outputs or binary data")
    memory.add(size_bytes)
    outputs = await infer(classifier, parsed, picture_timeout_s=settings.request_timeout_s)
    if size_bytes < _INLINE_ENCODE_BYTES:
        return encode_answer(parsed, manifest, outputs)
    return await BODIES.run(encode_answer, parsed, manifest, outputs)


async def _parsed(body: memoryview, json_bytes: int | None, manifest: Manifest, state: AppState) -> InferenceRequest:
    max_pictures = state.settings.max_batch_images
    if (len(body) if json_bytes is None else json_bytes) < INLINE_PARSE_BYTES:
        return parse_request(body, json_bytes, manifest, max_pictures)
    async with state.large_json:
        return await BODIES.run(parse_request, body, json_bytes, manifest, max_pictures)


def _json_bytes(request: Request) -> int | None:
    declared = request.headers.get(JSON_LENGTH)
    if declared is None:
        return None
    if not declared.isascii() or not declared.isdecimal() or len(declared) > 18:
        raise MalformedBody(f"{JSON_LENGTH} must be an integer, the number of JSON bytes")
    return int(declared)
