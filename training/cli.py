"""The command line of training: fit, data, evaluate, export, and the commands of other modules.

Knows arguments and messages; what a step does stands in training/pipeline.py, what looks back at runs in
training/commands/review.py, what puts models side by side in training/compare. Errors that a person can mend are one
line and
exit code 2.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

try:  # before all else: scipy and others, too, are there only where torch is
    # onnxruntime 1.32 reports its use to Microsoft unless this is set before it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from training.networks.build import check_model as check_network
except ModuleNotFoundError as error:  # the command is there wherever the service is installed, torch is not
    sys.stderr.write(f"marrowlens-train: {error.name} is not installed: pip install -e '.[training]'\n")
    raise SystemExit(2) from error

from model import atomic_file
from model.contract import Precision
from training import pipeline
from training.commands import compare, measure, review
from training.commands.configuration import classes_toml, command_arguments, read_classes, read_with_overrides
from training.config import read_config
from training.data.index import counts_table, index_data, summary_lines
from training.data.near_duplicates import write_near_duplicates
from training.data.samples import split_csv
from training.fit.distributed import this_process
from training.run import RunFolder
from training.terminal import console, print_line, print_metrics, report_errors, report_interruption, warn

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train, evaluate and export marrowlens models.")

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The run's configuration.")]
DataRoot = Annotated[Path, typer.Option("--data", help="Folder that the sources' folders lie in.")]
CacheFolder = Annotated[
    Path | None, typer.Option("--cache", help="Keeps decoded pictures, for other runs too; default: cache in the run.")
]
InitialWeights = Annotated[str | None, typer.Option("--init", help="Weights to begin with, in place of model.init.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `fit` wrote.")]


@app.command()
def fit(
    config_path: ConfigPath,
    out: Annotated[Path, typer.Option(help="Run folder; an interrupted run in it is picked up.")],
    data: DataRoot = Path("."),
    devices: Annotated[
        int | None, typer.Option(min=1, help="GPUs (or CPU processes) that share every batch; torchrun says it itself.")
    ] = None,
    accumulate: Annotated[int, typer.Option(min=1, help="Parts in which a device takes its share of a batch.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes a device that read pictures ahead.")] = 0,
    checkpoint_every: Annotated[int, typer.Option(min=0, help="Steps between checkpoints within an epoch.")] = 0,
    stop_after: Annotated[
        int | None, typer.Option("--steps", min=1, help="Stop after so many steps, to be picked up later.")
    ] = None,
    cache: CacheFolder = None,
    init: InitialWeights = None,
) -> None:
    """Train a model and write its weights, curves and split to a run folder."""
    from training.fit.distributed import barrier, gpus, on_rank_zero, process_group

    run = RunFolder(out)
    cache = cache or run.cache
    with report_errors():
        here = this_process().devices(devices, gpus())
        config, text = read_with_overrides(config_path, init)
        check_network(config.model)
    with report_errors(), process_group(), report_interruption(barrier):
        parts = pipeline.start_run(config, text, run, data, cache)
        if on_rank_zero(run.weights.exists):
            print_line(f"{run.weights} is already trained; give another --out to train anew")
            return
        from training.fit.train import Execution

        execution = Execution(here, accumulate, workers, checkpoint_every, stop_after)
        pipeline.train(config, parts, run, cache, command_arguments(config_path, init), execution)
    print_line(f"trained weights: {run.weights}\nnext: marrowlens-train evaluate {out} --data {data}")


@app.command(name="data")
def look_at_data(
    config_path: ConfigPath,
    data: DataRoot = Path("."),
    out: Annotated[Path | None, typer.Option(help="Folder for split.csv, twins.csv and unreadable.csv.")] = None,
    cache: CacheFolder = None,
) -> None:
    """Say what there is to learn from: pictures by class and block, twins, what cannot be read. Trains nothing."""
    with report_errors():
        config = read_config(config_path)
        found = index_data(config.data, data, config.codes, cache)
        console.print(counts_table(found, config.codes))
        for sentence in summary_lines(found, config.data, config.codes):
            print_line(sentence)
        pipeline.warn_unreadable(found.unreadable)
        if out:
            out.mkdir(parents=True, exist_ok=True)
            atomic_file.write_text(out / "split.csv", split_csv(found.parts))
            RunFolder(out).write_unreadable(found.unreadable)
            write_near_duplicates(RunFolder(out).twins, found.twins, found.samples, found.said, found.blocks)


@app.command()
def classes(
    source: Annotated[
        Path | None, typer.Argument(metavar="FOLDER|MODEL.onnx", help="Folder of class folders, or an artefact.")
    ] = None,
) -> None:
    """Print a list of classes to begin a configuration with: a folder's, an artefact's, or the 21."""
    with report_errors():
        typer.echo(classes_toml(read_classes(source)), nl=False)


@app.command()
def configuration(
    out: Annotated[Path | None, typer.Option(help="Write it there instead of to the terminal.")] = None,
) -> None:
    """Print every key of a configuration, with its type, bounds and default."""
    from training.commands.configuration import page

    if out:
        out.write_text(page(), encoding="utf-8")
    else:
        typer.echo(page(), nl=False)


@app.command()
def evaluate(run_folder: RunArgument, data: DataRoot = Path("."), cache: CacheFolder = None) -> None:
    """Fit the temperature on the calibration block and measure the test block."""
    with report_errors():
        run = RunFolder(run_folder)
        evaluation = pipeline.evaluate(run, data, cache or run.cache)
    print_line(f"temperature {evaluation.temperature:.3f}")
    print_metrics(evaluation.metrics)
    if not evaluation.temperature_fitted:
        warn("the calibration block does not determine a temperature: it stays at 1, and the card says so")
    print_line(f"next: marrowlens-train figures {run_folder} --data {data}")
    print_line(f"      marrowlens-train export {run_folder} --out FOLDER --data {data}")


@app.command()
def export(
    run_folder: RunArgument,
    out: Annotated[Path, typer.Option(help="Folder for the ONNX, its manifest, its card and the split list.")],
    precision: Annotated[Precision, typer.Option(help="Inside the network; fp16 is for GPUs.")] = "fp32",
    data: DataRoot = Path("."),
    cache: CacheFolder = None,
) -> None:
    """Write the ONNX artefact, its manifest and its model card, once it agrees with PyTorch.

    And what input drift is measured from, where the pictures of the calibration block are at hand and enough.
    """
    with report_errors():
        from training.export.card import CARD, check_folder, model_card, reproduction

        run = RunFolder(run_folder)
        config, fit, evaluation = run.config(), run.fit(), run.evaluation()
        check_folder(out, config.name)
        with console.status("exporting, and holding the graph against the network"):
            path, manifest = pipeline.export(run, out, precision)
        card = model_card(manifest, reproduction(fit, config, out, precision), evaluation)
        atomic_file.write_text(out / CARD, card)
        atomic_file.write_text(path.with_suffix(".split.csv"), run.split())
        review.export_drift_reference(path, config, data, cache or run.cache)
    print_line(f"{path} ({path.stat().st_size / 1e6:.1f} MB), manifest, card and split list beside it")


@app.command()
def probes(
    artefact: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An artefact whose manifest has no probes.")],
) -> None:
    """Store what an artefact's graph makes of the probe pictures in its manifest, which every export does by itself."""
    with report_errors():
        from training.export.probes import store_probes

        manifest = store_probes(artefact)
    print_line(f"{artefact.with_suffix('.json')} has the answers of {manifest.name} to the probe pictures")


@app.command()
def bind(
    artefact: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An artefact from before exports did it.")],
) -> None:
    """Write into an artefact's graph which classes its numbers are of, which every export does by itself."""
    with report_errors():
        from training.export.binding import bind as bind_meaning

        manifest = bind_meaning(artefact)
    print_line(f"{artefact} says itself what its numbers mean; its sha256 is now {manifest.sha256}")


for command in (
    review.figures,
    review.pool,
    review.audit,
    measure.size,
    compare.compare,
    compare.speed,
    measure.profile,
    measure.feed,
):
    app.command()(command)
app.command(name="drift-reference")(review.drift_reference)


if __name__ == "__main__":
    app()
