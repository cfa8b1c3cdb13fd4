"""Pictures that come decoded: they get the answer of the file they were decoded from, and a misfit harms nobody."""

import asyncio
from pathlib import Path

import numpy as np
from conftest import Draw

from model.image import UnsupportedPicture, decode
from service.config.settings import Settings
from service.inference.classifier import Answer, Classifier
from service.runtime.loader import InferenceOptions
from service.runtime.session import open_session
from service.telemetry.metrics import Metrics


async def test_pixels_get_the_answer_of_their_file_and_misfits_harm_nobody(artefact: Path, draw: Draw) -> None:
    options = InferenceOptions.from_settings(Settings(max_batch_size=4))
    classifier = Classifier(open_session(artefact, provider="cpu"), options, Metrics())
    await classifier.start()
    pixels = [decode(draw(seed), 64) for seed in range(4)]
    misfits = [pixels[0][:32], pixels[0].astype(np.float32), pixels[0][None], np.zeros((64, 64, 4), np.uint8)]
    mixed = [found for pair in zip(pixels, misfits, strict=True) for found in pair]
    alone = await asyncio.gather(*map(classifier.classify, mixed), return_exceptions=True)
    many = [outcome async for outcome in classifier.classify_many(mixed)]
    files = await asyncio.gather(*(classifier.classify(draw(seed)) for seed in range(4)))
    await classifier.close()
    for outcomes in (alone, many):
        assert [type(outcome) for outcome in outcomes] == [Answer, UnsupportedPicture] * 4
        for found, file in zip(outcomes[::2], files, strict=True):
            assert isinstance(found, Answer)
            np.testing.assert_allclose(found.logits, file.logits, atol=1e-4)
