"""The kinds of model that a comparison knows, each step of theirs behind one interface (training/compare/conduct.py).

Knows where pictures and caches lie. Knows no entries and no table.
"""

from collections import Counter
from pathlib import Path

from training import steps
from training.compare.conduct import Learner
from training.compare.cost import Cost, cost
from training.compare.pace import pictures_per_s
from training.compare.results import epoch_pictures
from training.compare.speed import Subject, artefact
from training.config import Config, read_config
from training.networks import check
from training.run import Run
from training.survey import survey


class TrainingPictures:
    """How many pictures each source's training block has; asked once of equal data."""

    def __init__(self, data: Path, cache: Path) -> None:
        self.data, self.cache = data, cache
        self.known: dict[str, Counter[str]] = {}

    def by_source(self, config: Config) -> Counter[str]:
        """Source → pictures."""
        key = f"{config.data.model_dump_json()} {config.codes}"
        if key not in self.known:
            parts = survey(config.data, self.data, config.codes, self.cache).parts
            self.known[key] = Counter(sample.source for sample in parts["train"])
        return self.known[key]


class Network:
    """Any network that a configuration may name, trained by this package and timed in onnxruntime."""

    def __init__(self, data: Path, cache: Path, pictures: TrainingPictures) -> None:
        self.data, self.cache, self.pictures = data, cache, pictures

    def check(self, config: Config) -> None:
        check(config.model)

    def epoch_pictures(self, config: Config) -> int:
        return epoch_pictures(config, self.pictures.by_source(config))

    def pace(self, config: Config) -> float:
        return pictures_per_s(config)

    def cost(self, config: Config) -> Cost:
        return cost(config)

    def fit(self, config_path: Path, folder: Path) -> None:
        config, text, run = read_config(config_path), config_path.read_text(encoding="utf-8"), Run(folder)
        parts = steps.begin(config, text, run, self.data, self.cache)
        steps.train(config, parts, run, self.cache, str(config_path))

    def evaluate(self, folder: Path) -> None:
        steps.evaluate(Run(folder), self.data, self.cache)

    def export(self, folder: Path, out: Path) -> None:
        steps.export(Run(folder), out)

    def subject(self, out: Path, threads: int) -> Subject:
        (path,) = out.glob("*.onnx")
        return artefact(path, threads)


def learners(data: Path, cache: Path) -> dict[str, Learner]:
    """Entry's kind → its learner.

    Args:
        data: what --data names.
        cache: of decoded pictures and fingerprints, shared by all entries.
    """
    pictures = TrainingPictures(data, cache)
    return {"network": Network(data, cache, pictures)}
