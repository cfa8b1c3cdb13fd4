"""One inference request through the classifier: its pictures in, one array for each wanted output.

Knows the order of pictures, and the deadline of the whole. The protocol has one answer or one error for a request, so
the first picture that cannot be answered ends it; the batches that its others were in are nobody else's loss.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from model.image import PictureError
from service.api.v2.messages import InferenceRequest, row_shape
from service.api.v2.tensors import SentPicture
from service.inference.batching.errors import DeadlineExpired
from service.inference.classifier import Classifier
from service.inference.pipeline import Answer, Picture


async def infer(
    classifier: Classifier, request: InferenceRequest, *, picture_timeout_s: float
) -> dict[str, NDArray[np.float32]]:
    """The wanted outputs, each (N, …), in the order asked for.

    One picture is answered or refused like one of `/classify`; several wait for places like those of
    `/classify/batch`. The request's own timeout is for all of its pictures together, `picture_timeout_s` for each.

    Raises:
        PictureError: of the first picture that cannot be read; the sentence names its place.
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
                    _refuse(index, answer)
                for name, rows in outputs.items():
                    rows[index] = getattr(answer, name)  # copied: a row would hold its whole batch
                index += 1
    except TimeoutError:
        raise DeadlineExpired("the request's timeout passed") from None
    return outputs


async def _answers(
    classifier: Classifier, request: InferenceRequest, picture_timeout_s: float
) -> AsyncGenerator[Answer | Exception, None]:
    timeout_s = min(picture_timeout_s, request.timeout_s or picture_timeout_s)
    if len(request.pictures) > 1:
        pictures = (_readable(sent) for sent in request.pictures)
        async with aclosing(classifier.classify_many(pictures, timeout_s=timeout_s)) as answers:
            async for answer in answers:
                yield answer
        return
    try:
        yield await classifier.classify(_readable(request.pictures[0]), deadline=time.monotonic() + timeout_s)
    except PictureError as error:
        yield error


def _readable(sent: SentPicture) -> bytes | Picture:
    # Cut out only now, so that the bytes of few pictures exist twice at a time.
    return bytes(sent) if isinstance(sent, memoryview) else sent


def _refuse(index: int, error: Exception) -> NoReturn:
    if isinstance(error, PictureError):
        raise type(error)(f"picture {index} (counted from 0): {error.reason}") from error
    raise error
