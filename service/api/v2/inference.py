"""Runs one inference request: its pictures through the classifier, one array for each requested output.

The protocol has one answer or one error for a request, so the first unreadable picture fails it. Other requests in the
same batches are not affected.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from model.contract import Manifest
from model.image import PictureError
from model.trust.decision import Assessment
from service.api.v2.codec import InferenceRequest, TensorPicture
from service.api.v2.outputs import DECISION_OUTPUTS, DECISIONS, row_shape
from service.inference.batching.errors import DeadlineExpired
from service.inference.classifier import Classifier
from service.inference.pipeline import Answer, Pixels


async def infer(
    classifier: Classifier, request: InferenceRequest, *, picture_timeout_s: float
) -> dict[str, NDArray[np.float32]]:
    """The requested outputs in order, each (N, …).

    One picture is admitted or rejected as on `/classify`; several wait for the queue as on `/classify/batch`. The
    request's own timeout applies to all its pictures together, `picture_timeout_s` to each.

    Raises:
        PictureError: of the first unreadable picture; the message names its index.
        DeadlineExpired, QueueFull, BatcherClosed, RunFailed.
    """
    count = len(request.pictures)
    outputs = {name: np.empty((count, *row_shape(classifier.manifest, name)), np.float32) for name in request.binary}
    try:
        async with (
            asyncio.timeout(request.timeout_s),
            aclosing(_answers(classifier, request, picture_timeout_s)) as found,
        ):
            index = 0
            async for answer in found:
                if isinstance(answer, Exception):
                    _fail(index, answer)
                for name, rows in outputs.items():
                    # Copied: a view would keep its whole batch in memory.
                    rows[index] = _row(answer, classifier.manifest, name)
                index += 1
    except TimeoutError:
        raise DeadlineExpired("the request's timeout passed") from None
    return outputs


async def _answers(
    classifier: Classifier, request: InferenceRequest, picture_timeout_s: float
) -> AsyncGenerator[Answer | Exception, None]:
    timeout_s = min(picture_timeout_s, request.timeout_s or picture_timeout_s)
    if len(request.pictures) > 1:
        pictures = (_to_decode(sent) for sent in request.pictures)
        async with aclosing(classifier.classify_many(pictures, timeout_s=timeout_s)) as answers:
            async for answer in answers:
                yield answer
        return
    try:
        yield await classifier.classify(_to_decode(request.pictures[0]), deadline=time.monotonic() + timeout_s)
    except PictureError as error:
        yield error


def _to_decode(sent: TensorPicture) -> bytes | Pixels:
    # Copied this late, so that few pictures are in memory twice.
    return bytes(sent) if isinstance(sent, memoryview) else sent


def _fail(index: int, error: Exception) -> NoReturn:
    if isinstance(error, PictureError):
        raise type(error)(f"picture {index} (counted from 0): {error.reason}") from error
    raise error


def _row(answer: Answer, manifest: Manifest, output: str) -> NDArray[np.float32]:
    """One picture's part of an output."""
    if output not in DECISION_OUTPUTS:
        values: NDArray[np.float32] = getattr(answer, output)
        return values
    assert answer.assessment is not None, "`output_names` lists the decision only for a model with a trust reference"
    return np.array(_ROWS[output](answer.assessment, manifest), np.float32)


_ROWS: dict[str, Callable[[Assessment, Manifest], list[float]]] = {
    "decision": lambda assessment, _: [DECISIONS[assessment.decision]],
    "prediction_set": lambda assessment, manifest: [code in assessment.prediction_set for code in manifest.codes],
    "novelty": lambda assessment, _: [assessment.novelty, assessment.p_value],
}
