"""The kinds of model that a comparison knows, each step of theirs behind one interface (training/compare/conduct.py).

Knows where pictures and caches lie. Knows no entries and no table.
"""

import shutil
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # in scikit-learn's own dependencies

from model import atomic_file
from training import pipeline
from training.compare.baselines import ClassicalModel
from training.compare.baselines import Kind as ClassicalKind
from training.compare.conduct import Learner
from training.compare.results import epoch_pictures
from training.compare.speed import Subject, artefact, cores
from training.config import Config, read_config
from training.data.index import index_data
from training.export.cost import NetworkCost, network_cost, training_speed
from training.fit.pretrained import IMAGENET, weights_info
from training.networks.build import check_model
from training.run import FitRecord, RunFolder

FEATURES = "features.npz"  # of the training pictures, with their labels
TINY = 1e-6  # a forest may say that a class is impossible; its logarithm must be a number


class TrainingPictures:
    """How many pictures each source's training block has; asked once of equal data."""

    def __init__(self, data: Path, cache: Path) -> None:
        self.data, self.cache = data, cache
        self.known: dict[str, Counter[str]] = {}

    def by_source(self, config: Config) -> Counter[str]:
        """Source → pictures."""
        key = f"{config.data.model_dump_json()} {config.codes}"
        if key not in self.known:
            parts = index_data(config.data, self.data, config.codes, self.cache).parts
            self.known[key] = Counter(sample.source for sample in parts["train"])
        return self.known[key]


class Network:
    """Any network that a configuration may name, trained by this package and timed in onnxruntime."""

    def __init__(self, data: Path, cache: Path, pictures: TrainingPictures) -> None:
        self.data, self.cache, self.pictures = data, cache, pictures

    def check(self, config: Config) -> None:
        check_model(config.model)
        if config.model.init == IMAGENET:
            weights_info(IMAGENET, config.model.variant)

    def epoch_pictures(self, config: Config) -> int:
        return epoch_pictures(config, self.pictures.by_source(config))

    def pace(self, config: Config) -> float:
        return training_speed(config)

    def cost(self, config: Config) -> NetworkCost:
        return network_cost(config)

    def fit(self, config_path: Path, folder: Path) -> None:
        config, text, run = read_config(config_path), config_path.read_text(encoding="utf-8"), RunFolder(folder)
        parts = pipeline.start_run(config, text, run, self.data, self.cache)
        if not run.weights.exists():
            pipeline.train(config, parts, run, self.cache, str(config_path))

    def evaluate(self, folder: Path) -> None:
        pipeline.evaluate(RunFolder(folder), self.data, self.cache)

    def export(self, folder: Path, out: Path) -> None:
        pipeline.export(RunFolder(folder), out)

    def subject(self, out: Path, threads: int) -> Subject:
        (path,) = out.glob("*.onnx")
        return artefact(path, threads)


class Classical:
    """A classifier of scikit-learn on measured features.

    What is kept is what it has learned from, the features of the training pictures: from them it is made again, alike,
    where a pickle would run whatever it holds.
    """

    def __init__(self, data: Path, cache: Path, kind: ClassicalKind) -> None:
        self.data, self.cache, self.kind = data, cache, kind

    def check(self, _: Config) -> None:
        return None

    def epoch_pictures(self, _: Config) -> None:
        return None

    def pace(self, _: Config) -> None:
        return None

    def cost(self, _: Config) -> None:
        return None

    def fit(self, config_path: Path, folder: Path) -> None:
        config, text, run = read_config(config_path), config_path.read_text(encoding="utf-8"), RunFolder(folder)
        parts = pipeline.start_run(config, text, run, self.data, self.cache, network=False)
        if (folder / FEATURES).exists():
            return
        begun, pictures = (
            time.monotonic(),
            pipeline.decode_block(config, parts, "train", config.model.input_size, self.cache),
        )
        model = self._new(config, processes=cores())
        features = model.measure(pictures.images)
        model.learn(features, pictures.labels)
        run.write_unreadable(pictures.unreadable)
        told = {name: version(name) for name in ("marrowlens", "scikit-learn", "scikit-image", "numpy", "pillow")}
        device = f"{cores()} CPU cores"
        run.write_fit(
            FitRecord(config=str(config_path), versions=told, train_s=time.monotonic() - begun, device=device)
        )
        with atomic_file.replacing(folder / FEATURES) as file:  # last: where this file lies, it has been measured
            np.savez(file, features=features, labels=pictures.labels)

    def evaluate(self, folder: Path) -> None:
        model = self._learned(folder, processes=cores())
        pipeline.evaluate_logits(
            lambda images: np.log(np.maximum(model.predict_proba(images), TINY)),
            RunFolder(folder),
            self.data,
            self.cache,
        )

    def export(self, folder: Path, out: Path) -> None:
        out.mkdir(exist_ok=True)
        for name in (FEATURES, "config.toml"):
            shutil.copy(folder / name, out)

    def subject(self, out: Path, threads: int) -> Subject:
        model = self._learned(out, processes=1)  # starting another takes longer than a batch

        def answer(images: NDArray[np.uint8]) -> object:
            with threadpool_limits(threads):
                return model.predict_proba(images)

        return Subject(read_config(out / "config.toml").model.input_size, answer)

    def _new(self, config: Config, processes: int) -> ClassicalModel:
        return ClassicalModel(len(config.classes), self.kind, config.seed, processes)

    def _learned(self, folder: Path, processes: int) -> ClassicalModel:
        model = self._new(read_config(folder / "config.toml"), processes)
        with np.load(folder / FEATURES, allow_pickle=False) as arrays:
            return model.learn(arrays["features"], arrays["labels"])


def learners(data: Path, cache: Path) -> dict[str, Learner]:
    """Entry's kind → its learner.

    Args:
        data: what --data names.
        cache: of decoded pictures and fingerprints, shared by all entries.
    """
    pictures = TrainingPictures(data, cache)
    classical: dict[str, Learner] = {kind: Classical(data, cache, kind) for kind in get_args(ClassicalKind)}
    return classical | {"network": Network(data, cache, pictures)}
