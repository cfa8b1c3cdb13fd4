"""The trust reference of a run: fitted to the right cells, and measured without the cells it was fitted to."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from known import CODES, known_cells, red_cells
from numpy.typing import NDArray
from torch import Tensor, nn

from model.heads import VANOutput
from model.image import decode
from training.config import Config
from training.data.images import LabelledImages
from training.data.samples import Sample
from training.evaluation.predictor import Predictor
from training.evaluation.tables import trust_tables
from training.evaluation.trust import RunTrust, decode_folder, supported

SIZE = 64
CONFIG = Config.model_validate(
    {
        "name": "drawn",
        "version": "0.0.1",
        "classes": [{"code": code, "name": code} for code in (*CODES, "PLM")],
        "model": {"variant": "micro", "input_size": SIZE, "mean": [0, 0, 0], "std": [1, 1, 1]},
        "data": {
            "sources": [
                {"name": "marrow", "folder": "m", "licence": "CC0", "attribution": "drawn"},
                {"name": "blood", "folder": "b", "licence": "CC0", "attribution": "drawn", "tissue": "blood"},
            ]
        },
        "trust": {"outliers": ["others"]},
        "card": {"intended_use": "tests", "licence": "CC0", "min_training_images": 8},
    }
)


class _Features(nn.Module):
    """Colours of a coarse grid and roughness as the embedding; random directions of it as logits of three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.randn(51, len(CONFIG.classes), generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> VANOutput:
        roughness = 10 * (x[..., 1:] - x[..., :-1]).abs().mean(dim=(2, 3))
        embedding = torch.cat([nn.functional.adaptive_avg_pool2d(x, 4).flatten(1), roughness], dim=1)
        logits = 30 * (embedding - embedding.mean(dim=1, keepdim=True)) @ self.weights
        logits[:, 3:] = -50
        return VANOutput(logits, logits, logits, embedding)


PREDICTOR = Predictor(_Features().eval(), CONFIG, 1.0)  # type: ignore[arg-type]


def _block(count: int, first_seed: int, *, blood: int = 0, unsupported: int = 0) -> LabelledImages:
    """Drawn cells, labelled as the network answers; the first ones of blood, the next ones of class PLM."""
    images = np.stack([decode(data, SIZE) for data in known_cells(count, first_seed)])
    labels: NDArray[np.int64] = PREDICTOR.cells(images).probabilities[:, : len(CODES)].argmax(axis=1)
    labels[blood : blood + unsupported] = len(CODES)
    sources = ["blood"] * blood + ["marrow"] * (count - blood)
    named = enumerate(zip(sources, labels, strict=True))
    samples = [Sample(source, CONFIG.codes[at], f"{n}.png", Path(f"{n}.png")) for n, (source, at) in named]
    return LabelledImages(samples, images, labels, [])


@pytest.fixture(scope="module")
def trust() -> RunTrust:
    return RunTrust(PREDICTOR, _block(200, 0, blood=10, unsupported=5), _block(120, 1000, blood=6, unsupported=4))


@pytest.mark.slow
def test_only_supported_cells_of_the_tissue_are_known(trust: RunTrust) -> None:
    assert trust.reference.pictures == len(trust.known) == 110
    assert "PLM" not in trust.reference.sets.thresholds  # five training pictures are too few
    assert trust.reference.source == "calibration block, bone marrow"
    assert CONFIG.codes.index("PLM") not in supported(CONFIG, _block(200, 0, blood=10, unsupported=5))


def test_pictures_without_cells_are_rejected_and_known_cells_are_not(trust: RunTrust, tmp_path: Path) -> None:
    others = tmp_path / "others" / "deep"
    others.mkdir(parents=True)
    assert decode_folder(tmp_path / "others", SIZE).shape == (0, SIZE, SIZE, 3)
    for seed in range(3):
        (others / f"{seed}.png").write_bytes(red_cells(seed))
    (others / "broken.png").write_bytes(b"no picture")
    (others / "notes.txt").write_text("no picture by name")
    pictures = decode_folder(tmp_path / "others", SIZE)
    measured = trust.measured(None, {"others": pictures})
    known, *rest = measured.decisions
    assert (known.pictures, known.n, known.auroc) == ("known cells", 110, None)
    assert known.rejected < 0.15 and known.accuracy == 1  # the labels are the answers
    assert [each.pictures for each in rest][:2] == ["others", "noise"] and rest[0].n == 3
    for kind in rest:
        assert kind.accepted == 0 and kind.rejected > 0.9 and kind.accuracy is None, kind
        assert kind.auroc is not None and kind.auroc > 0.8
    everything, *classes = measured.sets
    assert everything.n == sum(each.n for each in classes) == 110
    assert everything.covered == 1 and everything.size >= 1  # the predicted class is always in the set
    titles = [table.title for table in trust_tables(measured)]
    assert titles == ["Decisions, calibration block", "Prediction sets, calibration block"]


def test_the_test_block_is_measured_with_thresholds_of_the_calibration_block(trust: RunTrust) -> None:
    test = _block(60, 2000, blood=5)
    measured = trust.measured(test, {})
    assert (measured.known, measured.decisions[0].n) == ("test block", 55)
    cells = PREDICTOR.cells(test.images[5:], test.labels[5:])
    accepted = np.mean([each.decision == "accept" for each in trust.decide(cells)])
    assert measured.decisions[0].accepted == pytest.approx(accepted)


def test_a_calibration_cell_is_not_assessed_with_thresholds_of_its_own(trust: RunTrust) -> None:
    """The farthest cell of all is beyond every cell of the other nine folds: about 99 of the 110."""
    crossed = [each.p_value for each in trust.decide_cross_validated(trust.known, trust._known_rows)]
    assert min(crossed) == pytest.approx(1 / 100, abs=0.002)
    assert len(crossed) == 110 and np.mean(crossed) == pytest.approx(0.5, abs=0.05)


def test_too_few_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="30 calibration and 190 training cells of supported classes"):
        RunTrust(PREDICTOR, _block(190, 0), _block(30, 1000))


def test_cells_of_one_patient_say_nothing_about_others(trust: RunTrust) -> None:
    test = _block(60, 2000)
    of_one = replace(test, samples=[replace(sample, patient="one") for sample in test.samples])
    known, of_none = (trust.measured(pictures, {}) for pictures in (of_one, test))
    assert {(each.low, each.high) for each in (known.decisions[0], *known.sets)} == {(0, 1)}
    assert of_none.decisions[0].low > 0.8 and of_none.sets[0].low > 0.8
