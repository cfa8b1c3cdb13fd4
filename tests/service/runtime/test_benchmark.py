"""A provider on trial: against the CPU, by a clock, and when it is not there."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.contract import OUTPUTS
from service.runtime.benchmark import try_provider
from service.runtime.providers import NAMES
from service.runtime.session import OnnxSession, Outputs, offered, open_session

ABSENT = next(name for name in ("openvino", "cuda", "tensorrt") if NAMES[name] not in offered())


@pytest.fixture(scope="module")
def reference(artefact: Path) -> OnnxSession:
    return open_session(artefact, provider="cpu")


def test_the_cpu_agrees_with_itself_at_every_batch_size(artefact: Path, reference: OnnxSession) -> None:
    open_on = partial(_open, artefact)
    trial = try_provider("cpu", open_on, reference, offered(), (1, 2, 5), repeats=3)
    assert trial.works and trial.offered and trial.reason is None
    assert trial.opened_s is not None and trial.opened_s > 0
    assert [size.pictures for size in trial.sizes] == [1, 2, 5]
    for size in trial.sizes:
        assert tuple(size.differences) == OUTPUTS
        assert size.relative <= 1e-6 and size.top1 == 1
        assert size.pictures_per_s == pytest.approx(1000 * size.pictures / size.median_ms)


def test_one_that_is_not_in_the_build_says_what_to_install(artefact: Path, reference: OnnxSession) -> None:
    trial = try_provider(ABSENT, partial(_open, artefact), reference, offered(), (1,), repeats=1)
    assert not trial.works and not trial.offered and trial.sizes == ()
    assert trial.reason is not None and "pip install -e '.[service," in trial.reason


def test_one_that_is_promised_and_does_not_start_says_why(artefact: Path, reference: OnnxSession) -> None:
    trial = try_provider(ABSENT, partial(_open, artefact), reference, list(NAMES.values()), (1,), repeats=1)
    assert trial.offered and not trial.works
    assert trial.reason is not None and "pip install" in trial.reason


class Rotated:
    """A session that gives every picture its neighbour's answer."""

    def __init__(self, session: OnnxSession) -> None:
        self._session = session
        self.manifest, self.provider, self.precision = session.manifest, session.provider, session.precision

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        return Outputs(*(np.roll(array, 1, axis=0) for array in self._session.run(images)))


def test_wrong_answers_show() -> None:
    reference = open_session(provider="cpu")  # the bundled network: its classes for the probe pictures differ
    trial = try_provider("cpu", lambda _: Rotated(reference), reference, offered(), (1, 8), repeats=1)
    alone, together = trial.sizes
    assert alone.relative <= 1e-6
    assert together.relative > 0.1 and together.top1 < 1


def _open(artefact: Path, provider: str) -> OnnxSession:
    return open_session(artefact, provider=provider)
