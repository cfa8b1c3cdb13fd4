"""The command line of training: fit, evaluate, export; what looks back at runs is in training/review.py.

Knows arguments and messages. Errors that a person can mend are one line and exit code 2.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from training import review, sizing
from training.config import Config, read_config
from training.data import Block, DataError, Parts, split_list
from training.override import as_typed, configured
from training.pictures import Pictures, Unreadable, decode_all
from training.run import Fit, Halted, Run
from training.split_words import describe
from training.survey import recorded, survey
from training.survey_table import counts_table, sentences, twin_sentence
from training.terminal import RANK, complain, console, say, show_figures, told_plainly
from training.twins import write_twins

try:
    from training.networks import check as check_network
except ModuleNotFoundError as error:  # the command is there wherever the service is installed, torch is not
    raise SystemExit(f"{error.name} is not installed: pip install 'marrowlens[training]'") from error

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train, evaluate and export marrowlens models.")

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The run's configuration.")]
DataRoot = Annotated[Path, typer.Option("--data", help="Folder that the sources' folders lie in.")]
CacheFolder = Annotated[
    Path | None, typer.Option("--cache", help="Keeps decoded pictures, for other runs too; default: cache in the run.")
]
InitialWeights = Annotated[str | None, typer.Option("--init", help="Weights to begin with, in place of model.init.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `fit` wrote.")]


@contextmanager
def _picked_up_later() -> Iterator[None]:
    """What is said of a training that was stopped, and the exit code that a shell expects after a signal."""
    try:
        yield
    except Halted as halted:
        say(str(halted))
        # Where one of several processes ends otherwise, Lightning kills the others before they have spoken.
        raise typer.Exit(128 + halted.signum if halted.signum and not RANK else 0) from halted
    except KeyboardInterrupt as interrupt:
        say("interrupted; the same command goes on from the last checkpoint")
        raise typer.Exit(130) from interrupt


@app.command()
def fit(
    config_path: ConfigPath,
    out: Annotated[Path, typer.Option(help="Run folder; an interrupted run in it is picked up.")],
    data: DataRoot = Path("."),
    devices: Annotated[int, typer.Option(min=1, help="GPUs (or CPU processes) that share every batch.")] = 1,
    accumulate: Annotated[int, typer.Option(min=1, help="Parts in which a device takes its share of a batch.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes a device that read pictures ahead.")] = 0,
    checkpoint_every: Annotated[int, typer.Option(min=0, help="Steps between checkpoints within an epoch.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps, to be picked up later.")] = None,
    cache: CacheFolder = None,
    init: InitialWeights = None,
) -> None:
    """Train a model and write its weights, curves and split to a run folder."""
    with told_plainly(), _picked_up_later():
        config, text = configured(config_path, init)
        check_network(config.model)
        run = Run(out)
        cache = cache or run.cache
        if run.begun(text):
            parts = recorded(config.data, data, config.codes, run.split())
        else:
            parts = _parts(config, data, run, cache)
        if not RANK:
            run.start(text, split_list(parts))
        if run.weights.exists():
            say(f"{run.weights} is already trained; give another --out to train anew")
            return
        from training.fit import Execution
        from training.fit import fit as fit_network
        from training.step import OVERSIZE

        train = _decode(config, parts, "train", round(config.model.input_size * OVERSIZE), cache)
        calibration = _decode(config, parts, "calibration", config.model.input_size, cache)
        if not RANK:
            run.write_unreadable([*train.unreadable, *calibration.unreadable])
        if len(train.samples) < config.fit.batch_size:
            raise DataError(data, f"{len(train.samples)} readable training pictures do not fill one batch")
        execution = Execution(devices, accumulate, workers, checkpoint_every, steps)
        fit_network(config, train, calibration, run, as_typed(config_path, init), say, execution)
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
        _list_unreadable(found.unreadable)
        if out:
            out.mkdir(parents=True, exist_ok=True)
            (out / "split.csv").write_text(split_list(found.parts), encoding="utf-8")
            Run(out).write_unreadable(found.unreadable)
            write_twins(Run(out).twins, found.twins, found.samples, found.said, found.blocks)


@app.command()
def evaluate(run_folder: RunFolder, data: DataRoot = Path("."), cache: CacheFolder = None) -> None:
    """Fit the temperature on the calibration block and measure the test block."""
    with told_plainly():
        from training.calibration import TEMPERATURE_BOUNDS
        from training.evaluate import evaluate as evaluate_logits
        from training.evaluate import load_network, score

        run = Run(run_folder)
        config = run.config()
        net = load_network(config, run.trained_weights())
        parts = recorded(config.data, data, config.codes, run.split())
        calibration, test = (
            _decode(config, parts, block, config.model.input_size, cache or run.cache)
            for block in ("calibration", "test")
        )
        logits = score(net, config, calibration.images), score(net, config, test.images)
        evaluation, scores = evaluate_logits(config, calibration, test, logits)
        run.write_evaluation(evaluation, scores)
    say(f"temperature {evaluation.temperature:.3f}")
    show_figures(evaluation.metrics)
    low, high = TEMPERATURE_BOUNDS
    if not 1.01 * low < evaluation.temperature < 0.99 * high:
        complain("the temperature is at its bound: the calibration block does not determine it")
    say(f"next: marrowlens-train figures {run_folder} --data {data}")
    say(f"      marrowlens-train export {run_folder} --out FOLDER")


@app.command()
def export(
    run_folder: RunFolder,
    out: Annotated[Path, typer.Option(help="Folder for the ONNX, its manifest, its card and the split list.")],
) -> None:
    """Write the ONNX artefact, its manifest and its model card, once it agrees with PyTorch."""
    from training.card import model_card
    from training.evaluate import load_network
    from training.export import ExportError, Trained
    from training.export import export as export_network

    with told_plainly():
        run = Run(run_folder)
        config, evaluation = run.config(), run.evaluation()
        net = load_network(config, run.trained_weights())
        division = describe(config.data, run.twins.exists())
        trained = Trained(config, net, evaluation, run.training_images(), division, run.split_sha256())
        try:
            with console.status("exporting, and holding the graph against the network"):
                path, manifest = export_network(trained, out)
        except ExportError as error:
            raise ValueError(f"not exported: {error}") from error
        card = model_card(manifest, _reproduction(run.fit(), out), evaluation.confusion)
        (out / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        path.with_suffix(".split.csv").write_text(run.split(), encoding="utf-8")
    say(f"{path} ({path.stat().st_size / 1e6:.1f} MB), manifest, card and split list beside it")


def _reproduction(fit: Fit, out: Path) -> str:
    minutes = max(round(fit.train_s / 60), 1)
    libraries = ", ".join(f"{name} {version}" for name, version in fit.versions.items())
    return f"""```sh
marrowlens-train fit {fit.config} --data DATA --out RUN
marrowlens-train evaluate RUN --data DATA
marrowlens-train export RUN --out {out}
```

Training took {minutes} min on {fit.device}, with {libraries}. On one CPU the commands repeat the bits, picked up \
after an interruption or not; on other devices they repeat the procedure."""


def _parts(config: Config, data: Path, run: Run, cache: Path) -> Parts:
    """The blocks that a new run will have; tells of twins, and lists them in the run's folder."""
    found = survey(config.data, data, config.codes, cache)
    say(twin_sentence(found, config.data))
    run.folder.mkdir(parents=True, exist_ok=True)
    if config.data.twins.action != "off" and not RANK:
        write_twins(run.twins, found.twins, found.samples, found.said, found.blocks)
    return found.parts


def _decode(config: Config, parts: Parts, block: Block, size: int, cache: Path) -> Pictures:
    crops = {source.name: source.crop for source in config.data.sources}
    pictures = decode_all(parts[block], config.codes, size, crops, f"reading {block}", cache)
    _list_unreadable(pictures.unreadable)
    return pictures


def _list_unreadable(unreadable: list[Unreadable]) -> None:
    for entry in unreadable:
        complain(f"unreadable: {entry.sample.path}: {entry.reason}")
    if unreadable:
        complain(f"{len(unreadable)} unreadable pictures were left out")


for command in (review.figures, review.pool, review.audit, sizing.size):
    app.command()(command)


if __name__ == "__main__":
    app()
