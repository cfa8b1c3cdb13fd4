"""A workspace to train at: drawn cells, configurations and runs in one folder."""

import csv
from multiprocessing.process import BaseProcess
from pathlib import Path

import commands
import pauses
import torch
from safetensors.torch import load_file

from stress.training.drawn_config import DRAWN_CONFIG
from training.config import ModelConfig
from training.drawn.painter import write_folder
from training.networks.build import build


class Workspace:
    """A folder of drawn cells, 16 of three classes, with configurations and runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_folder(folder / "drawn", ("EOS", "LYT", "NGS"), 16, size=48)

    def write(self, name: str, text: str, *changes: tuple[str, str]) -> None:
        config = DRAWN_CONFIG + text
        for old, new in changes:
            config = config.replace(old, new)
        (self.folder / f"{name}.toml").write_text(config.replace("TEACHER", str(self.folder / "runs" / "teacher")))

    def arguments(self, name: str, run: str, *options: str) -> list[str]:
        folder = self.folder
        return [*map(str, ("fit", folder / f"{name}.toml", "--data", folder, "--out", folder / "runs" / run)), *options]

    def start(self, name: str, run: str, *options: str, pause: int) -> BaseProcess:
        """Start a training that pauses before it puts its checkpoint in its place for so many times."""
        moment = pauses.moment(self.checkpoint(run), pause)
        return commands.start(*self.arguments(name, run, *options), log=self.folder / f"{run}.log", **moment)

    def fit(self, name: str, run: str, *options: str) -> None:
        assert commands.run(*self.arguments(name, run, *options), log=self.folder / f"{run}.log") == 0, self.said(run)

    def said(self, run: str) -> str:
        return (self.folder / f"{run}.log").read_text()

    def weights(self, run: str) -> bytes:
        return (self.folder / "runs" / run / "weights.safetensors").read_bytes()

    def checkpoint(self, run: str) -> Path:
        return self.folder / "runs" / run / "checkpoints" / "last.ckpt"

    def learned(self, run: str) -> torch.Tensor:
        """How far all weights have gone, as one vector; no BatchNorm statistics, of which each process has its own."""
        torch.manual_seed(3)
        start = build(ModelConfig(variant="micro"), 21).state_dict()
        state = load_file(self.folder / "runs" / run / "weights.safetensors")
        kept = [name for name in state if "running" not in name and "num_batches" not in name]
        return torch.cat([(state[name] - start[name]).flatten() for name in kept])  # the file has an order of its own

    def curves(self, run: str) -> dict[str, dict[int, float]]:
        """Name → epoch → value, over all attempts; of an epoch that was repeated, the last."""
        from training.report.figures.curves import read_curves

        return read_curves(self.folder / "runs" / run / "curves").values

    def rows(self, run: str) -> list[dict[str, str]]:
        """Rows of the curves, over all attempts."""
        found = sorted((self.folder / "runs" / run / "curves").glob("version_*/metrics.csv"))
        return [row for path in found for row in csv.DictReader(path.read_text().splitlines())]
