"""Commands for evaluated runs and exported artefacts: figures, pool, audit, drift-reference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from training.config import Config, read_config
from training.data.samples import DataError
from training.run import RunFolder
from training.terminal import print_evaluation, print_line, print_table, report_errors, warn

DataRoot = Annotated[Path, typer.Option("--data", help="Folder that contains the folders of the sources.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Evaluated run, or a folder written by `pool`.")]
RunsArgument = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Evaluated runs.")]


def figures(
    run_folder: RunArgument,
    data: DataRoot = Path("."),
    out: Annotated[Path | None, typer.Option(help="Folder for the figures; default: figures in the run.")] = None,
) -> None:
    """Draw every figure of an evaluated run as PNG and SVG, and write an HTML report with all of them."""
    with report_errors():
        from training.report.report import write_report

        report = write_report(RunFolder(run_folder), data, out or run_folder / "figures")
    size = report.stat().st_size / 1e6
    print_line(f"report: {report} ({size:.1f} MB), figures in the same folder; they contain pictures of cells")


def pool(
    run_folders: RunsArgument,
    out: Annotated[Path, typer.Option(help="Folder for the pooled metrics, predictions and logits.")],
) -> None:
    """Pool the test blocks of a k-fold split's runs: every picture is predicted once."""
    with report_errors():
        print_pool([RunFolder(folder) for folder in run_folders], out)
    print_line(f"next: marrowlens-train figures {out} --data DATA")


def print_pool(runs: Sequence[RunFolder], out: Path) -> None:
    """Pool evaluated folds into a folder and print their tables."""
    from training.evaluation.cross_validation import fold_tables, pool_folds, write_pool

    pooled = pool_folds(runs)
    write_pool(pooled, runs, out)
    for table in fold_tables(pooled):
        print_table(table)
    print_evaluation(pooled.evaluation)
    if pooled.untested:
        print_line(f"{pooled.untested} pictures were tested in no fold: is a run missing?")


def audit(
    run_folders: RunsArgument,
    out: Annotated[Path, typer.Option(help="Folder for audit.csv and audit.html.")],
    data: DataRoot = Path("."),
) -> None:
    """List possible label errors: labels that every run, or the mean of their probabilities, contradicts."""
    with report_errors():
        from training.report.label_errors import write_label_audit

        tables = write_label_audit([RunFolder(folder) for folder in run_folders], data, out)
    for table in tables:
        print_table(table)
    print_line(f"list: {out / 'audit.csv'}, page: {out / 'audit.html'}; it contains pictures of cells")


def drift_reference(
    artefact: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="With manifest and split list beside it.")],
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Configuration it was trained with.")],
    data: DataRoot = Path("."),
) -> None:
    """Write the drift reference of an exported artefact; `export` does so by itself if the pictures are available."""
    with report_errors():
        from training.drift_reference import store_drift_reference

        manifest, source = store_drift_reference(artefact, read_config(config_path), data)
    print_line(f"drift reference of {manifest.name}: {source}")


def export_drift_reference(artefact: Path, config: Config, data: Path, cache: Path) -> None:
    """Write the drift reference during an export; warns if pictures are missing or too few."""
    from training.drift_reference import store_drift_reference

    try:
        print_line(f"drift reference: {store_drift_reference(artefact, config, data, cache)[1]}")
    except (DataError, ValueError, OSError) as error:
        warn(f"drift reference not written: {error}; write it later with `marrowlens-train drift-reference`")
