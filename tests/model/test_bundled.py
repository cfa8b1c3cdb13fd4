"""The bundled model keeps what its manifest and card say of it; with the real cells, its figures too."""

import csv
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from checkout import SHARED
from onnx import numpy_helper

from model.contract import CLASSES
from model.image import decode
from service.runtime.artifact import bundled_artefact
from service.runtime.session import OnnxSession, open_session
from training.config import Config, read_config
from training.data.index import index_data
from training.data.samples import Split, sha256_of, split_csv

CELLS = SHARED / "cells"
MAX_BYTES = 16_000_000


@pytest.fixture(scope="module")
def session() -> OnnxSession:
    return open_session(provider="cpu")


@pytest.fixture(scope="module")
def config() -> Config:
    return read_config(Path("training/configs/best.toml"))


def test_it_is_small_and_keeps_the_contract(session: OnnxSession) -> None:
    assert bundled_artefact().stat().st_size <= MAX_BYTES
    assert session.manifest.classes == CLASSES
    assert session.manifest.attention_scales == ("3-5-1", "5-7-1", "7-9-1")


def test_it_is_what_its_configuration_makes(session: OnnxSession, config: Config) -> None:
    manifest = session.manifest
    assert (manifest.name, manifest.version, manifest.variant) == (config.name, config.version, config.model.variant)
    assert (manifest.intended_use, manifest.licence) == (config.card.intended_use, config.card.licence)
    assert manifest.limits[: len(config.card.limits)] == config.card.limits  # those that the export found follow
    assert [source.attribution for source in manifest.sources] == [s.attribution for s in config.data.sources]


def test_no_claim_rests_on_fewer_pictures_than_the_configuration_asks(session: OnnxSession, config: Config) -> None:
    marrow = [source.training_images for source in session.manifest.sources if source.tissue == config.card.tissue]
    for code in set(session.manifest.codes) - set(session.manifest.unsupported):
        assert sum(images.get(code, 0) for images in marrow) >= config.card.min_training_images


@pytest.fixture(scope="module")
def split(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Split:
    """The blocks as `marrowlens-train fit` makes them, with near duplicates on one side.

    The folder of real cells may hold further classes: those count that the list of pictures beside the model names.
    """
    if not CELLS.is_dir():
        pytest.skip("no real cells: the folder ../shared/cells is not there")
    data = tmp_path_factory.mktemp("cells")
    with bundled_artefact().with_suffix(".split.csv").open(newline="") as file:
        folders = {(row["source"], row["code"]) for row in csv.DictReader(file)}
    for source, code in folders:
        (data / source).mkdir(exist_ok=True)
        (data / source / code).symlink_to(CELLS / source / code)
    unsearched = config.data.overlaps.model_copy(update={"action": "off"})  # they are listed only, and take a minute
    return index_data(config.data.model_copy(update={"overlaps": unsearched}), data, config.codes, cache=None).split


def test_it_was_trained_on_the_split_that_the_configuration_makes(session: OnnxSession, split: Split) -> None:
    assert sha256_of(split_csv(split)) == session.manifest.split_sha256


def test_the_served_path_reaches_the_accuracy_that_is_claimed(
    session: OnnxSession, config: Config, split: Split
) -> None:
    """The pictures as a laboratory would send them, through the decoder and the graph that the service uses."""
    marrow = config.data.sources[0]
    cells = [sample for sample in split["test"] if sample.source == marrow.name]
    size = session.manifest.preprocessing.input_size
    right = 0
    for start in range(0, len(cells), 50):
        some = cells[start : start + 50]
        found = session.run(np.stack([decode(cell.path.read_bytes(), size) for cell in some])).probabilities
        right += sum(session.manifest.codes[at] == cell.code for at, cell in zip(found.argmax(1), some, strict=True))
    claimed = next(
        m for m in session.manifest.metrics if m.name == "accuracy" and m.split.startswith(f"{marrow.name} ")
    )
    assert claimed.n == len(cells)
    assert right / len(cells) == pytest.approx(claimed.value, abs=2 / len(cells))
    assert claimed.value >= 0.86  # far below it, the wrong file was bundled


def test_its_answers_depend_on_its_attention(session: OnnxSession) -> None:
    """What the manifest says of each part, as export demands it."""
    lesions = {lesion.part: lesion for lesion in session.manifest.lesions}
    assert session.manifest.inert == () and session.manifest.has_attention
    assert lesions["MLKA in the blocks"].changed >= 0.05 and lesions["MLKA in the pooling"].changed >= 0.01
    assert lesions["MLKA"].changed >= 0.05 and lesions["MLKA"].accuracy_change <= -0.02
    assert lesions["cross-scale attention"].changed >= 0.01
    assert all(lesions[f"MLKA {scale}"].changed > 0 for scale in session.manifest.attention_scales)


@pytest.mark.parametrize(("part", "least"), [("attend|gate", 0.05), ("fusion.answer", 0.01)])
def test_a_graph_without_its_attention_gives_other_answers(
    session: OnnxSession, split: Split, part: str, least: float
) -> None:
    """The gates, or what cross-scale attention adds, made constant in the ONNX file itself."""
    cells = [sample for sample in split["calibration"] if sample.source == "matek2021"][::2]
    size = session.manifest.preprocessing.input_size
    pixels = np.stack([decode(cell.path.read_bytes(), size) for cell in cells])
    model = onnx.load(bundled_artefact())
    kernels = [i for i in model.graph.initializer if re.search(rf"({part})\b.*\.weight$", i.name)]
    assert kernels
    for kernel in kernels:
        kernel.CopyFrom(numpy_helper.from_array(np.zeros(kernel.dims, np.float32), kernel.name))
    lesioned = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = lesioned.run(["probabilities"], {"image": pixels})
    expected = np.concatenate([session.run(pixels[at : at + 16]).probabilities for at in range(0, len(pixels), 16)])
    assert (found.argmax(axis=1) != expected.argmax(axis=1)).mean() >= least
