"""Real micrographs through the ways that drawn ones take. They lie beside the checkout, in ../shared/cells, or nowhere.

Real cells are no part of the repository: without them these tests are skipped, each by its name.
"""

import random
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from checkout import SHARED
from color_profiles import ADOBE_RGB, DISPLAY_P3, stored_in
from numpy.typing import NDArray
from pictures import assert_same_but_for_rounding, encoded
from PIL import Image

from bench.peers.decoders import by_pillow
from model.contract import CLASSES
from model.image import PictureError, decode
from service.config.settings import Settings
from service.inference.classifier import Classifier
from service.inference.pipeline import Answer
from service.runtime.artifact import bundled_artefact
from service.runtime.loader import InferenceOptions
from service.runtime.session import open_session
from service.telemetry.metrics import Metrics
from training.drawn.painter import paint

CELLS = SHARED / "cells"
pytestmark = pytest.mark.skipif(not CELLS.is_dir(), reason="no real cells: the folder ../shared/cells is not there")


def pictures(source: str) -> list[Path]:
    return sorted((CELLS / source).rglob("*.jpg"))


def test_the_folders_are_classes_of_the_contract() -> None:
    codes = {cell_class.code for cell_class in CLASSES}
    for source in ("originals", "matek2021", "acevedo2020"):
        found = {path.parent.name for path in pictures(source)}
        assert found and found <= codes, source


@pytest.mark.parametrize("source", ["originals", "matek2021", "acevedo2020"])
def test_real_pictures_are_read_as_pillow_reads_them(source: str) -> None:
    """At 128 px from the whole picture, at 64 px from half its side: nearly the same pixels."""
    for path in random.Random(0).sample(found := pictures(source), min(len(found), 60)):
        data = path.read_bytes()
        assert_same_but_for_rounding(decode(data, 128), by_pillow(data, 128))
        off = np.abs(decode(data, 64).astype(int) - by_pillow(data, 64))
        assert 0 < off.mean() < 1 and off.max() < 24


def test_the_model_answers_alike_whoever_resizes() -> None:
    """The bundled model on this project's pixels and on Pillow's: decision 0008 rests on this."""
    session = open_session(bundled_artefact())
    size = session.manifest.preprocessing.input_size
    found = random.Random(1).sample(pictures("matek2021"), 128)
    ours = np.stack([decode(path.read_bytes(), size) for path in found])
    pillows = np.stack([by_pillow(path.read_bytes(), size) for path in found])
    answers = [
        np.concatenate([session.run(pixels[at : at + 16]).probabilities for at in range(0, len(found), 16)])
        for pixels in (ours, pillows)
    ]
    assert (ours != pillows).mean() < 0.01
    assert np.abs(answers[0] - answers[1]).max() < 0.03
    assert (answers[0].argmax(axis=1) == answers[1].argmax(axis=1)).all()


def test_a_copy_encoded_again_looks_the_same() -> None:
    """The same cells lie in originals as published and in matek2021 encoded again at quality 85."""
    pairs = [(path, CELLS / "matek2021" / path.parent.name / path.name) for path in pictures("originals")]
    both = [(first.read_bytes(), second.read_bytes()) for first, second in pairs if second.exists()]
    assert len(both) >= 30
    for first, second in both:
        assert np.abs(decode(first, 96).astype(int) - decode(second, 96)).mean() < 4


@pytest.mark.parametrize("profile", [DISPLAY_P3, ADOBE_RGB], ids=["display p3", "adobe rgb"])
def test_a_cell_keeps_its_class_in_another_colour_space(profile: bytes) -> None:
    session = open_session(bundled_artefact())
    size = session.manifest.preprocessing.input_size

    def classes(files: list[bytes]) -> NDArray[np.int64]:
        pixels = np.stack([decode(data, size) for data in files])
        batches = [session.run(pixels[at : at + 16]).probabilities for at in range(0, len(files), 16)]
        return np.concatenate(batches).argmax(axis=1)

    cells = [Image.open(path).convert("RGB") for path in random.Random(1).sample(pictures("matek2021"), 210)]
    stored = [stored_in(cell, profile) for cell in cells]
    expected = classes([encoded(cell, "TIFF") for cell in cells])
    with_profile = classes([encoded(cell, "TIFF", icc_profile=profile) for cell in stored])
    without = classes([encoded(cell, "TIFF") for cell in stored])
    # Rounding to 8 bits in the other space: one of 210 cells lies so close to a boundary.
    assert (with_profile != expected).sum() <= 1 < (without != expected).sum()


@pytest.mark.parametrize("source", ["originals", "matek2021", "acevedo2020"])
def test_damaged_copies_are_refused(source: str) -> None:
    for path in random.Random(2).sample(found := pictures(source), min(len(found), 40)):
        data = path.read_bytes()
        half = (data.rindex(b"\xff\xda") + len(data)) // 2
        rest = len(data) - half
        for damaged in (
            data[:half],
            data[:half] + b"\xff\xd9",
            data[:half] + bytes(rest) + b"\xff\xd9",
            data[:half] + bytes(20 * rest) + b"\xff\xd9",
            data.replace(b"\n", b"\r\n"),
            data.replace(b"\n", b"\r"),
            data.replace(b"\r", b"\n"),
            data.replace(b"\r", b""),
        ):
            with pytest.raises(PictureError, match="cut off|damaged"):
                decode(damaged, 96)
        assert (decode(data + data[:half], 96) == decode(data, 96)).all()


async def test_a_hundred_cells_of_which_five_are_broken(artefact: Path) -> None:
    """Originals and drawings, in order: 95 answers and 5 problems, and each answer is that picture's own."""
    sent = [path.read_bytes() for path in pictures("originals")]
    codes = [cell_class.code for cell_class in CLASSES]
    for number in range(100 - len(sent)):
        file = BytesIO()
        Image.fromarray(paint(codes[number % len(codes)], number, 100).picture).save(file, "PNG")
        sent.append(file.getvalue())
    broken = {3: sent[3][:5000], 40: b"", 41: b"GIF89a", 77: sent[77][:-200], 99: bytes(4000)}
    for place, data in broken.items():
        sent[place] = data
    session = open_session(artefact)
    classifier = Classifier(session, InferenceOptions.from_settings(Settings()), Metrics())
    await classifier.start()
    try:
        outcomes = [outcome async for outcome in classifier.classify_many(sent)]
    finally:
        await classifier.close()
    assert len(outcomes) == 100
    assert {place for place, outcome in enumerate(outcomes) if isinstance(outcome, PictureError)} == set(broken)
    for data, outcome in zip(sent, outcomes, strict=True):
        if isinstance(outcome, Answer):
            alone = session.run(decode(data, session.manifest.preprocessing.input_size)[None]).probabilities[0]
            np.testing.assert_allclose(outcome.probabilities, alone, atol=1e-5)
