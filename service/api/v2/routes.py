"""The routes of the Open Inference Protocol v2: the same model for clients of KServe, Triton and their like.

Knows paths and headers. Messages, tensors and the way through the classifier are the modules' below.
"""

from contextlib import ExitStack
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from model.contract import Manifest
from service.api.collected_answer import CollectedAnswer
from service.api.disconnect import while_connected
from service.api.openapi import problem_responses
from service.api.problems import PROTOCOL_PATH
from service.api.schemas import InferenceProblem
from service.api.state import Running, RunningService
from service.api.uploads.body import whole_body
from service.api.uploads.json_text import PARSED_AT_ONCE_BYTES
from service.api.uploads.memory_budget import Lease
from service.api.v2.inference import infer
from service.api.v2.messages import InferenceRequest, answer, parse
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
#: Work on so many bytes is done in a thread, where it keeps no other request waiting.
_ASIDE_BYTES = 64 * 1024

Name = Annotated[str, Path(description="the model's name, as `GET /model` gives it", examples=["marrowlens-lite"])]
Version = Annotated[str, Path(description="the model's version", examples=["1.0.0"])]

router = APIRouter(prefix=PROTOCOL_PATH, tags=["open inference protocol"])
_NOT_THERE = problem_responses(404, 503, form=InferenceProblem)
_INFERENCE = INFERENCE_RESPONSE | problem_responses(404, 408, 413, 415, 422, 429, 503, 504, form=InferenceProblem)


async def _named(name: Name, service: RunningService) -> Classifier:
    return _found(service, name)


async def _versioned(name: Name, version: Version, service: RunningService) -> Classifier:
    return _found(service, name, version)


Named = Annotated[Classifier, Depends(_named)]
Versioned = Annotated[Classifier, Depends(_versioned)]


@router.get("", summary="The server's metadata")
async def server_metadata() -> ServerMetadata:
    """The server's name and version, and the extensions of the protocol that it speaks."""
    return ServerMetadata(name="marrowlens", version=version("marrowlens"), extensions=["binary_tensor_data"])


@router.get("/health/live", summary="Is the server alive?")
async def server_live() -> ServerLive:
    """As `GET /health/live`."""
    return ServerLive(live=True)


@router.get("/health/ready", summary="Is the server ready?", responses=problem_responses(503, form=InferenceProblem))
async def server_ready(service: RunningService) -> ServerReady:
    """As `GET /health/ready`: 503 when it is not."""
    service.check_ready()
    return ServerReady(ready=True)


@router.get("/models/{name}", summary="The model's metadata", responses=_NOT_THERE)
async def inference_model(classifier: Named) -> ModelMetadata:
    """Names, datatypes and shapes of the model's tensors. Its input may be sent as BYTES, encoded pictures, too."""
    return model_metadata(classifier.manifest)


@router.get("/models/{name}/versions/{version}", summary="One version's metadata", responses=_NOT_THERE)
async def inference_model_version(classifier: Versioned) -> ModelMetadata:
    """The same for one version of the model; there is one."""
    return model_metadata(classifier.manifest)


@router.get("/models/{name}/ready", summary="Is the model ready?", responses=_NOT_THERE)
async def inference_model_ready(classifier: Named, service: RunningService) -> ModelReady:
    """503 when it is not."""
    service.check_ready()
    return ModelReady(name=classifier.manifest.name, ready=True)


@router.get("/models/{name}/versions/{version}/ready", summary="Is one version ready?", responses=_NOT_THERE)
async def inference_model_version_ready(classifier: Versioned, service: RunningService) -> ModelReady:
    """503 when it is not."""
    service.check_ready()
    return ModelReady(name=classifier.manifest.name, ready=True)


@router.post(
    "/models/{name}/infer",
    summary="Infer",
    response_model=InferenceResponse,
    responses=_INFERENCE,
    openapi_extra=INFERENCE_REQUEST,
)
async def inference(request: Request, classifier: Named, service: RunningService) -> Response:
    """Send pictures as one tensor; get the outputs asked for, or all of them, as tensors.

    `image` is BYTES [N], each element one encoded picture, or UINT8 [N, S, S, 3], decoded and resized RGB. Tensors are
    JSON, or binary data after the JSON (Triton's `binary_tensor_data`). One picture that cannot be read fails the
    request, and the sentence names it. An output is a suggestion: a qualified person reads the cell and signs.
    """
    return await _inferred(request, classifier, service)


@router.post(
    "/models/{name}/versions/{version}/infer",
    summary="Infer with one version",
    response_model=InferenceResponse,
    responses=_INFERENCE,
    openapi_extra=INFERENCE_REQUEST,
)
async def inference_version(request: Request, classifier: Versioned, service: RunningService) -> Response:
    """The same with one version of the model; there is one."""
    return await _inferred(request, classifier, service)


def _found(service: Running, name: str, version: str | None = None) -> Classifier:
    classifier = service.serving()
    manifest = classifier.manifest
    if name != manifest.name or version not in (None, manifest.version):
        raise UnknownModel(manifest.name, manifest.version)
    return classifier


async def _inferred(request: Request, classifier: Classifier, service: Running) -> Response:
    json_bytes = _json_bytes(request)
    with ExitStack() as stack:
        stack.enter_context(classifier.held())
        lease = stack.enter_context(service.lease(request))
        body = await whole_body(request, lease, service.limits)
        work = _answered(body, json_bytes, classifier, service, lease)
        chunks, json_bytes = await while_connected(request, work)
        headers = {"Cache-Control": "no-store"} | ({} if json_bytes is None else {JSON_LENGTH: str(json_bytes)})
        media_type = "application/json" if json_bytes is None else "application/octet-stream"
        return CollectedAnswer(
            chunks, stack.pop_all(), media_type=media_type, patience=service.limits.patience, headers=headers
        )


async def _answered(
    body: memoryview, json_bytes: int | None, classifier: Classifier, service: Running, lease: Lease
) -> tuple[list[bytes | memoryview], int | None]:
    settings, manifest = service.settings, classifier.manifest
    asked = await _parsed(body, json_bytes, manifest, service)
    size_bytes = asked.answer_bytes(manifest)
    if size_bytes > settings.max_body_bytes:
        raise AnswerTooLarge(settings.max_body_bytes, "send fewer pictures, ask for fewer outputs, or for binary data")
    lease.take(size_bytes)
    outputs = await infer(classifier, asked, picture_timeout_s=settings.request_timeout_s)
    if size_bytes < _ASIDE_BYTES:
        return answer(asked, manifest, outputs)
    return await BODIES.run(answer, asked, manifest, outputs)


async def _parsed(body: memoryview, json_bytes: int | None, manifest: Manifest, service: Running) -> InferenceRequest:
    max_pictures = service.settings.max_batch_images
    if (len(body) if json_bytes is None else json_bytes) < PARSED_AT_ONCE_BYTES:
        return parse(body, json_bytes, manifest, max_pictures)
    async with service.large_json:
        return await BODIES.run(parse, body, json_bytes, manifest, max_pictures)


def _json_bytes(request: Request) -> int | None:
    declared = request.headers.get(JSON_LENGTH)
    if declared is None:
        return None
    if not declared.isascii() or not declared.isdecimal() or len(declared) > 18:
        raise MalformedBody(f"{JSON_LENGTH} must be a number of bytes")
    return int(declared)
