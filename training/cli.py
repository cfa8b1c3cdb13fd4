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
    from training.networks.build import check as check_network
except ModuleNotFoundError as error:  # the command is there wherever the service is installed, torch is not
    sys.stderr.write(f"marrowlens-train: {error.name} is not installed: pip install -e '.[training]'\n")
    raise SystemExit(2) from error

from model import atomic_file
from model.contract import Precision
from training import pipeline
from training.commands import compare, measure, review
from training.commands.configuration import as_toml, as_typed, classes_of, configured
from training.config import read_config
from training.data.index import counts_table, sentences, survey
from training.data.near_duplicates import write_twins
from training.data.samples import split_list
from training.fit.distributed import this_process
from training.run import Run
from training.terminal import complain, console, picked_up_later, say, show_figures, told_plainly

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train, evaluate and export marrowlens models.")

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The run's configuration.")]
DataRoot = Annotated[Path, typer.Option("--data", help="Folder that the sources' folders lie in.")]
CacheFolder = Annotated[
    Path | None, typer.Option("--cache", help="Keeps decoded pictures, for other runs too; default: cache in the run.")
]
InitialWeights = Annotated[str | None, typer.Option("--init", help="Weights to begin with, in place of model.init.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `fit` wrote.")]


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
    from training.fit.distributed import agreed, gpus, joined, settle

    run = Run(out)
    cache = cache or run.cache
    with told_plainly():
        here = this_process().devices(devices, gpus())
        config, text = configured(config_path, init)
        check_network(config.model)
    with told_plainly(), joined(), picked_up_later(settle):
        parts = pipeline.begin(config, text, run, data, cache)
        if agreed(run.weights.exists):
            say(f"{run.weights} is already trained; give another --out to train anew")
            return
        from training.fit.train import Execution

        execution = Execution(here, accumulate, workers, checkpoint_every, stop_after)
        pipeline.train(config, parts, run, cache, as_typed(config_path, init), execution)
    say(f"trained weights: {run.weights}\nnext: marrowlens-train evaluate {out} --data {data}")


@app.command(name="data")
def look_at_data(
    config_path: ConfigPath,
    data: DataRoot = Path("."),
    out: Annotated[Path | None, typer.Option(help="Folder for split.csv, twins.csv and unreadable.csv.")] = None,
    cache: CacheFolder = None,
) -> None:
    """Say what there is to learn from: pictures by class and block, twins, what cannot be read. Trains nothing."""
    with told_plainly():
        config = read_config(config_path)
        found = survey(config.data, data, config.codes, cache)
        console.print(counts_table(found, config.codes))
        for sentence in sentences(found, config.data, config.codes):
            say(sentence)
        pipeline.list_unreadable(found.unreadable)
        if out:
            out.mkdir(parents=True, exist_ok=True)
            atomic_file.write_text(out / "split.csv", split_list(found.parts))
            Run(out).write_unreadable(found.unreadable)
            write_twins(Run(out).twins, found.twins, found.samples, found.said, found.blocks)


@app.command()
def classes(
    source: Annotated[
        Path | None, typer.Argument(metavar="FOLDER|MODEL.onnx", help="Folder of class folders, or an artefact.")
    ] = None,
) -> None:
    """Print a list of classes to begin a configuration with: a folder's, an artefact's, or the 21."""
    with told_plainly():
        typer.echo(as_toml(classes_of(source)), nl=False)


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
def evaluate(run_folder: RunFolder, data: DataRoot = Path("."), cache: CacheFolder = None) -> None:
    """Fit the temperature on the calibration block and measure the test block."""
    with told_plainly():
        run = Run(run_folder)
        evaluation = pipeline.evaluate(run, data, cache or run.cache)
    say(f"temperature {evaluation.temperature:.3f}")
    show_figures(evaluation.metrics)
    if not evaluation.temperature_fitted:
        complain("the calibration block does not determine a temperature: it stays at 1, and the card says so")
    say(f"next: marrowlens-train figures {run_folder} --data {data}")
    say(f"      marrowlens-train export {run_folder} --out FOLDER --data {data}")


@app.command()
def export(
    run_folder: RunFolder,
    out: Annotated[Path, typer.Option(help="Folder for the ONNX, its manifest, its card and the split list.")],
    precision: Annotated[Precision, typer.Option(help="Inside the network; fp16 is for GPUs.")] = "fp32",
    data: DataRoot = Path("."),
    cache: CacheFolder = None,
) -> None:
    """Write the ONNX artefact, its manifest and its model card, once it agrees with PyTorch.

    And what input drift is measured from, where the pictures of the calibration block are at hand and enough.
    """
    with told_plainly():
        from training.export.card import CARD, check_folder, model_card, reproduction

        run = Run(run_folder)
        config, fit, evaluation = run.config(), run.fit(), run.evaluation()
        check_folder(out, config.name)
        with console.status("exporting, and holding the graph against the network"):
            path, manifest = pipeline.export(run, out, precision)
        card = model_card(manifest, reproduction(fit, config, out, precision), evaluation)
        atomic_file.write_text(out / CARD, card)
        atomic_file.write_text(path.with_suffix(".split.csv"), run.split())
        review.drift_reference_of(path, config, data, cache or run.cache)
    say(f"{path} ({path.stat().st_size / 1e6:.1f} MB), manifest, card and split list beside it")


@app.command()
def probes(
    artefact: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An artefact whose manifest has no probes.")],
) -> None:
    """Store what an artefact's graph makes of the probe pictures in its manifest, which every export does by itself."""
    with told_plainly():
        from training.export.probes import store_probes

        manifest = store_probes(artefact)
    say(f"{artefact.with_suffix('.json')} has the answers of {manifest.name} to the probe pictures")


@app.command()
def bind(
    artefact: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An artefact from before exports did it.")],
) -> None:
    """Write into an artefact's graph which classes its numbers are of, which every export does by itself."""
    with told_plainly():
        from training.export.binding import bind as bind_meaning

        manifest = bind_meaning(artefact)
    say(f"{artefact} says itself what its numbers mean; its sha256 is now {manifest.sha256}")


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
