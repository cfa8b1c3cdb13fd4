"""Models timed side by side, and the cost of a network."""

import threading
import time
from pathlib import Path

import commands
import numpy as np
import pytest

from model.contract import CellClass
from training.compare.speed import Subject, cpu_seconds, load_artefact, time_side_by_side
from training.config import read_config
from training.export.cost import network_cost


def test_the_first_is_the_measure_of_the_others() -> None:
    weights = np.ones((64, 64))
    quick = Subject(32, lambda _: weights @ weights)
    slow = Subject(32, lambda _: [weights @ weights for _ in range(200)])
    found = time_side_by_side({"quick": quick, "slow": slow, "again": quick}, (1, 4), rounds=5, round_s=0.005)
    assert [timing.batch for timing in found["slow"]] == [1, 4]
    for timing in found["quick"]:
        assert timing.ratio == timing.ratio_low == timing.ratio_high == 1
    for timing in found["slow"]:
        assert timing.ratio_low <= timing.ratio <= timing.ratio_high
        assert timing.ratio < 0.5 and timing.pictures_per_s < found["quick"][0].pictures_per_s * 4


def test_every_model_is_asked_equally_often_with_pictures_of_its_size() -> None:
    seen: dict[str, list[tuple[int, ...]]] = {"small": [], "large": []}
    subjects = {
        name: Subject(size, lambda images, name=name: seen[name].append(images.shape))
        for name, size in (("small", 32), ("large", 64))
    }
    time_side_by_side(subjects, (2,), rounds=3, round_s=1e-9)
    assert seen["small"] == [(2, 32, 32, 3)] * 6  # three rounds, each with a warm-up call and a timed one
    assert seen["large"] == [(2, 64, 64, 3)] * 6


def test_what_onnxruntime_cannot_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(ValueError, match="broken.onnx: onnxruntime cannot load it"):
        load_artefact(tmp_path / "broken.onnx", threads=1)


def test_exported_models_are_timed_from_the_command_line(artefact: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert commands.run("speed", artefact, artefact, "--rounds", "1", "--batch", "2", "--cpu-time", log=log) == 0
    assert "CPU" in log.read_text() and "1 rounds" in log.read_text() and "1.00" in log.read_text()


def test_cpu_seconds_are_those_that_this_process_computed() -> None:
    """CPU seconds of a model that waits exclude the waiting."""
    weights = np.ones((256, 256))
    waits = threading.Event()
    subject = Subject(32, lambda _: (waits.wait(0.2), weights @ weights))
    by_wall, by_cpu = (
        time_side_by_side({"one": subject}, (1,), rounds=1, round_s=1e-3, clock=clock)["one"][0].pictures_per_s
        for clock in (time.perf_counter, cpu_seconds)
    )
    assert by_wall <= 5 < by_cpu


def test_multiply_adds_and_parameters_are_the_published_ones() -> None:
    """VAN-B0 on ImageNet: 4.11 M parameters, 0.88 G multiply-adds (mmpretrain's table of VAN)."""
    config = read_config(Path("training/configs/tiny_deep.toml"))
    classes = tuple(CellClass(code=str(at), name=str(at)) for at in range(1000))
    model = config.model.model_copy(update={"variant": "van_b0", "input_size": 224})
    found = network_cost(config.model_copy(update={"classes": classes, "model": model}))
    assert round(found.parameters / 1e6, 2) == 4.11
    assert round(found.multiply_adds / 1e9, 2) == pytest.approx(0.88, abs=0.02)
