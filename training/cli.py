"""The command line `marrowlens-train`. Expected errors are one line and exit code 2.

Modules that import torch are imported inside the commands: an artefact is evaluated without it.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

# onnxruntime 1.32 sends telemetry to Microsoft unless this is set before its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
try:
    import typer

    from model import atomic_file
    from model.contract import Precision
    from training import pipeline
    from training.commands import compare, file_order, folds, measure, review
    from training.commands.configuration import (
        SetKeys,
        classes_toml,
        command_arguments,
        folder_mapping,
        read_classes,
        read_with_overrides,
    )
    from training.commands.external import external_validation
    from training.commands.review import DataRoot
    from training.data.index import counts_table, index_data, summary_lines
    from training.data.samples import split_csv
    from training.evaluation.tables import diagnosis_tables, lesion_table, temperature_is_uncertain, temperature_text
    from training.external import is_external
    from training.process import this_process
    from training.run import MeasuredBlock, RunFolder
    from training.terminal import (
        console,
        print_evaluation,
        print_line,
        print_table,
        report_errors,
        report_interruption,
        warn,
    )
except ImportError as error:  # the command is also installed where only the service's packages are
    missing = (
        f"{(error.name or '').partition('.')[0]} is not installed: pip install -e '.[training]', or '.[evaluate,cpu]' "
        "to evaluate an artefact without torch"
    )
    sys.stderr.write(f"marrowlens-train: {missing if isinstance(error, ModuleNotFoundError) else error}\n")
    raise SystemExit(2) from error

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train, evaluate and export marrowlens models.")

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Training configuration.")]
CacheFolder = Annotated[
    Path | None, typer.Option("--cache", help="Folder for decoded pictures, shared between runs; default: RUN/cache.")
]
InitialWeights = Annotated[str | None, typer.Option("--init", help="Pretrained weights; overrides model.init.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder written by `fit`.")]


@app.command()
def fit(
    config_path: ConfigPath,
    out: Annotated[Path, typer.Option(help="Run folder; an interrupted run in it is resumed.")],
    data: DataRoot = Path("."),
    devices: Annotated[
        int | None, typer.Option(min=1, help="GPUs (or CPU processes) that share every batch; set by torchrun.")
    ] = None,
    accumulate: Annotated[int, typer.Option(min=1, help="Accumulation steps on each device.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Processes per device that prefetch pictures.")] = 0,
    checkpoint_every: Annotated[int, typer.Option(min=0, help="Steps between checkpoints within an epoch.")] = 0,
    stop_after: Annotated[
        int | None, typer.Option("--steps", min=1, help="Stop after this many steps; run again to resume.")
    ] = None,
    cache: CacheFolder = None,
    init: InitialWeights = None,
    keys: SetKeys = None,
    extend: Annotated[
        bool,
        typer.Option("--extend", help="Continue a finished run with more fit.epochs, or with fit.restarts appended."),
    ] = False,
) -> None:
    """Train a model; write weights, curves and split to a run folder."""

    run = RunFolder(out)
    cache = cache or run.cache
    with report_errors():
        import torch

        from training.fit.distributed import barrier, on_rank_zero, process_group

        here = this_process().devices(devices, torch.cuda.device_count())
        config, text = read_with_overrides(config_path, init, keys or ())
        pipeline.check_network(config)
    with report_errors(), process_group(), report_interruption(barrier):
        on_rank_zero(lambda: run.extend(config, text) if extend else None)
        split = pipeline.start_run(config, text, run, data, cache)
        if on_rank_zero(run.weights.exists):
            print_line(
                f"{run.weights} exists: the run is already trained; choose another --out to train again, or continue "
                "it with --extend --set fit.epochs=…"
            )
            return
        from training.fit.train import Execution

        execution = Execution(here, accumulate, workers, checkpoint_every, stop_after)
        pipeline.train(config, split, run, data, cache, command_arguments(config_path, init, keys or ()), execution)
    print_line(f"trained weights: {run.weights}\nnext: marrowlens-train evaluate {out} --data {data}")


@app.command(name="data")
def data_summary(
    config_path: ConfigPath,
    data: DataRoot = Path("."),
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for split.csv, the lists of leaks and unreadable.csv; default: not written."),
    ] = None,
    cache: CacheFolder = None,
    keys: SetKeys = None,
) -> None:
    """Summarise the data without training: pictures by class and block, near duplicates, unreadable files."""
    with report_errors():
        config, _ = read_with_overrides(config_path, keys=keys or ())
        pipeline.check_network(config)
        index = index_data(config.data, data, config.codes, cache)
        console.print(counts_table(index, config.codes))
        for line in summary_lines(index, config.data, config.codes):
            print_line(line)
        pipeline.warn_unreadable(index.unreadable)
        if out:
            out.mkdir(parents=True, exist_ok=True)
            run = RunFolder(out)
            atomic_file.write_text(out / "split.csv", split_csv(index.split))
            run.write_unreadable(index.unreadable)
            pipeline.write_leaks(run, index, config)
        pipeline.check_trainable(config, index.split, config_path)


@app.command()
def classes(
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER|MODEL.onnx",
            help="Folder of class folders, or an artefact; default: the 21 classes of Matek et al. 2021.",
        ),
    ] = None,
) -> None:
    """Print the `[[classes]]` tables of a configuration."""
    with report_errors():
        typer.echo(folder_mapping(source) + classes_toml(read_classes(source)), nl=False)


@app.command()
def configuration(
    out: Annotated[Path | None, typer.Option(help="File to write; default: standard output.")] = None,
) -> None:
    """Print every key of a configuration with type, bounds and default, as Markdown."""
    from training.commands.configuration import page

    if out:
        atomic_file.write_text(out, page())
    else:
        typer.echo(page(), nl=False)


@app.command()
def evaluate(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN|MODEL.onnx", help="Run folder written by `fit`, or an artefact.")
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="Folder that contains the folders of the run's sources; or other pictures for an external "
            "validation: a folder of class folders, or a list (CSV or Parquet).",
        ),
    ] = Path("."),
    cache: CacheFolder = None,
    block: Annotated[
        MeasuredBlock,
        typer.Option(help="Block to measure; calibration: development figures, without reading a test picture."),
    ] = "test",
    quick: Annotated[
        bool, typer.Option("--quick", help="Skip tests of maps and poor pictures, and decisions.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="External validation: folder for tables, figures and report; default: on-NAME in the run."),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=CODE", help="External validation: code of a class in the data; may be repeated."),
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="External validation: class of the data to ignore; may be repeated."),
    ] = None,
    patient_pattern: Annotated[
        str, typer.Option(help="External validation: regular expression on the file name; its group is the patient.")
    ] = "",
) -> None:
    """Fit the temperature on the calibration block and measure the test block.

    Also on the calibration block: lesions (each part of the network is replaced by its mean output), tests of the
    attention and evidence maps, and accuracy on pictures that are out of focus, of another scale, stain or brightness,
    or compressed. It also fits the thresholds of decisions and prediction sets, which `export` puts into the manifest.

    Make every choice with `--block calibration`, and measure the test block once for each released model. Every
    measurement of the test block is recorded in evaluations.csv of the run, and the model card states their number.

    An artefact, or a run with other pictures as --data, gets an external validation: the same tables, figures and
    report, with the model's own temperature and thresholds. For an artefact, torch is not needed.
    """
    with report_errors():
        run = RunFolder(run_folder)
        if run_folder.suffix == ".onnx" or is_external(run, data):
            if block != "test":
                raise ValueError("--block: external pictures have no blocks; leave it out")
            external_validation(run_folder, data, out, cache, classes or (), leave_out or (), patient_pattern)
            return
        if out or classes or leave_out or patient_pattern:
            raise ValueError(
                f"{data} holds the sources of the run; --out, --classes, --leave-out and --patient-pattern are for "
                "other pictures"
            )
        evaluation = pipeline.evaluate(run, data, cache or run.cache, block, thorough=not quick)
    print_line(f"temperature {temperature_text(evaluation)}")
    print_evaluation(evaluation)
    for table in diagnosis_tables(evaluation):
        print_table(table)
    if not evaluation.temperature_fitted:
        warn("the calibration block does not determine a temperature; 1 is used, and the model card states it")
    if temperature_is_uncertain(evaluation):
        warn(
            f"the temperature is uncertain: {evaluation.temperature_n} calibration pictures are too few to calibrate "
            "probabilities; use more (data.split)"
        )
    if block == "calibration":
        print_line(f"no test picture was read; next: marrowlens-train evaluate {run_folder} --data {data}")
        return
    print_line(f"next: marrowlens-train figures {run_folder} --data {data}")
    print_line(f"      marrowlens-train export {run_folder} --out FOLDER --data {data}")


@app.command()
def export(
    run_folder: RunArgument,
    out: Annotated[Path, typer.Option(help="Folder for the ONNX, its manifest, model card and split list.")],
    precision: Annotated[Precision, typer.Option(help="Precision of the weights; fp16 is for GPUs.")] = "fp32",
    allow_inert: Annotated[
        bool, typer.Option("--allow-inert", help="Export a network even if its answers do not depend on its attention.")
    ] = False,
    data: DataRoot = Path("."),
    cache: CacheFolder = None,
) -> None:
    """Write the ONNX artefact, manifest and model card, after checking the graph against PyTorch.

    Also writes the drift reference, if the pictures of the calibration block are available and enough. A network with
    MLKA, pooling or cross-scale attention that does not affect its answers is refused, unless --allow-inert is given.
    """
    with report_errors():
        from training.export.card import CARD, check_folder, model_card, reproduction

        run = RunFolder(run_folder)
        config, fit, evaluation = run.config(), run.fit(), run.evaluation()
        check_folder(out, config.name)
        with console.status("exporting and checking the graph"):
            path, manifest = pipeline.export(run, out, precision, allow_inert=allow_inert)
        card = model_card(manifest, reproduction(fit, config, out, manifest), evaluation, run.evaluation_count())
        atomic_file.write_text(out / CARD, card)
        atomic_file.write_text(path.with_suffix(".split.csv"), run.published_split())
        review.export_drift_reference(path, config, data, cache or run.cache)
    if evaluation.lesions:
        print_table(lesion_table(evaluation.lesions))
    if manifest.trust is None:
        warn("answers will have no decision: run `evaluate` without --quick before `export`")
    for part in manifest.inert:
        warn(f"answers do not depend on {part}")
    print_line(f"{path} ({path.stat().st_size / 1e6:.1f} MB) written with manifest, model card and split list")


for command in (
    review.figures,
    review.pool,
    review.audit,
    measure.size,
    compare.compare,
    compare.speed,
    compare.accuracy,
    measure.profile,
    measure.feed,
    folds.folds,
):
    app.command()(command)
app.command(name="drift-reference")(review.drift_reference)
app.command(name="find-lr")(measure.find_lr)
app.command(name="file-order")(file_order.file_order)


if __name__ == "__main__":
    app()
