"""The command `folds`: all folds of a k-fold split, trained, evaluated and pooled."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training import pipeline
from training.commands.configuration import SetKeys, command_arguments, read_with_overrides
from training.commands.review import DataRoot, print_pool
from training.config import ConfigError
from training.run import RunFolder
from training.split_config import KFoldSplit
from training.terminal import print_line, report_errors, report_interruption

if TYPE_CHECKING:
    from training.fit.train import Execution


def folds(
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help='Configuration with kind = "kfold".')],
    out: Annotated[Path, typer.Option(help="Folder of the runs fold_0, fold_1, … and of pool; done folds are kept.")],
    data: DataRoot = Path("."),
    cache: Annotated[Path | None, typer.Option(help="Folder of decoded pictures; default: cache in --out.")] = None,
    accumulate: Annotated[int, typer.Option(min=1, help="Accumulation steps.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prefetch pictures.")] = 0,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Evaluate each fold with maps, poor pictures and decisions too.")
    ] = False,
    keys: SetKeys = None,
) -> None:
    """Train and evaluate every fold of a k-fold split, one after the other, and pool them.

    An interrupted command resumes where it stopped. Folds are numbered from 0, as `data.split.fold`.
    """
    with report_errors(), report_interruption():
        split = read_with_overrides(config_path, keys=keys or ())[0].data.split
        if not isinstance(split, KFoldSplit):
            raise ConfigError(config_path, f'data.split.kind is "{split.kind}"; folds need kind = "kfold" and k')
        from training.fit.train import Execution

        execution = Execution(accumulate=accumulate, workers=workers)
        runs = [RunFolder(out / f"fold_{fold}") for fold in range(split.k)]
        for fold, run in enumerate(runs):
            print_line(f"fold {fold} of 0 to {split.k - 1}: {run.folder}")
            _train_and_evaluate(config_path, fold, run, data, cache or out / "cache", execution, thorough, keys or ())
        print_pool(runs, out / "pool")
    print_line(f"next: marrowlens-train figures {out / 'pool'} --data {data}")


def _train_and_evaluate(
    config_path: Path,
    fold: int,
    run: RunFolder,
    data: Path,
    cache: Path,
    execution: "Execution",
    thorough: bool,
    keys: list[str] | tuple[str, ...],
) -> None:
    keys = [*keys, f"data.split.fold={fold}"]
    config, text = read_with_overrides(config_path, keys=keys)
    pipeline.check_network(config)
    split = pipeline.start_run(config, text, run, data, cache)
    if not run.weights.exists():
        pipeline.train(config, split, run, data, cache, command_arguments(config_path, keys=keys), execution)
    if not run.is_evaluated("test"):
        pipeline.evaluate(run, data, cache, thorough=thorough)
