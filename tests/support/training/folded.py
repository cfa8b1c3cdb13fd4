"""Two folds of drawn cells, trained, evaluated and pooled through the command line, and a second model on the first."""

from pathlib import Path

import commands
from workspace import Workspace

FOLD = """
[fit]
epochs = 1
batch_size = 8
warmup_epochs = 0
lr = 3e-3
ema_decay = 0.5
[data.split]
kind = "kfold"
k = 2
fold = 0
"""


class Folded:
    """The runs fold-0, fold-1 and second (on the pictures of fold-0), and the folder pool. Do not write to them.

    One picture cannot be read.
    """

    unreadable = "EOS_00002.jpg"

    def __init__(self, folder: Path) -> None:
        self.data, self.workspace = folder, Workspace(folder)
        (folder / "drawn" / "EOS" / self.unreadable).write_bytes(b"not a picture")
        self.runs = [folder / "runs" / name for name in ("fold-0", "fold-1")]
        self.second, self.pooled = folder / "runs" / "second", folder / "pool"
        self.workspace.write("fold-0", FOLD)
        self.workspace.write("fold-1", FOLD, ("fold = 0", "fold = 1"))
        self.workspace.write("second", FOLD, ("seed = 3", "seed = 4"))
        for run in (*self.runs, self.second):
            self.workspace.fit(run.name, run.name)
            self.made("evaluate", run, "--data", folder, *(["--quick"] if run != self.runs[0] else []))
        self.made("pool", *self.runs, "--out", self.pooled)

    def made(self, *arguments: str | Path) -> str:
        """The output of a command that succeeds."""
        return self._said(0, *arguments)

    def refusal(self, *arguments: str | Path) -> str:
        """The one-line error of a command that fails with exit code 2."""
        said = self._said(2, *arguments)
        assert "Traceback" not in said
        return said

    def _said(self, expected: int, *arguments: str | Path) -> str:
        log = self.data / f"{arguments[0]}.log"
        log.unlink(missing_ok=True)
        status = commands.run(*arguments, log=log)
        assert status == expected, log.read_text(encoding="utf-8")
        return log.read_text(encoding="utf-8")

    def pool_said(self) -> str:
        """What pooling them says."""
        return self.made("pool", *self.runs, "--out", self.pooled)
