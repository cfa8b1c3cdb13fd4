"""The commands that look at evaluated runs and artefacts again: figures, pool, audit, drift-reference.

Knows arguments and messages. Trains nothing; `figures` runs a network, for its maps, and `drift_reference` a graph.
"""

from pathlib import Path
from typing import Annotated

import typer

from training.config import Config, read_config
from training.data.samples import DataError
from training.run import RunFolder
from training.terminal import print_line, print_metrics, print_table, report_errors, warn

DataRoot = Annotated[Path, typer.Option("--data", help="Folder that the sources' folders lie in.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Evaluated run, or what `pool` wrote.")]
RunsArgument = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Evaluated runs.")]


def figures(
    run_folder: RunArgument,
    data: DataRoot = Path("."),
    out: Annotated[Path | None, typer.Option(help="Folder for the figures; default: figures in the run.")] = None,
) -> None:
    """Draw an evaluated run: every figure as PNG and SVG, and one HTML report that holds them all."""
    with report_errors():
        from training.report.illustrate import illustrate

        report = illustrate(RunFolder(run_folder), data, out or run_folder / "figures")
    print_line(f"{report} ({report.stat().st_size / 1e6:.1f} MB), the figures beside it; it holds pictures of cells")


def pool(
    run_folders: RunsArgument,
    out: Annotated[Path, typer.Option(help="Folder for the pooled figures, predictions and logits.")],
) -> None:
    """Put the test blocks of a k-fold split's runs together: every picture predicted once."""
    with report_errors():
        from training.evaluation.cross_validation import fold_tables, write_pool
        from training.evaluation.cross_validation import pool as pool_runs

        runs = [RunFolder(folder) for folder in run_folders]
        pooled = pool_runs(runs)
        write_pool(pooled, runs, out)
        for table in fold_tables(pooled):
            print_table(table)
        print_metrics(pooled.evaluation.metrics)
        if pooled.untested:
            print_line(f"{pooled.untested} pictures were tested in no fold: is a run missing?")
    print_line(f"next: marrowlens-train figures {out} --data DATA")


def audit(
    run_folders: RunsArgument,
    out: Annotated[Path, typer.Option(help="Folder for audit.csv and audit.html.")],
    data: DataRoot = Path("."),
) -> None:
    """List labels to look at again: pictures that every run gets wrong, or whose label their probabilities doubt."""
    with report_errors():
        from training.report.label_errors import audit_runs

        tables = audit_runs([RunFolder(folder) for folder in run_folders], data, out)
    for table in tables:
        print_table(table)
    print_line(f"{out / 'audit.csv'} and {out / 'audit.html'}, which holds pictures of cells")


def drift_reference(
    artefact: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="Its manifest and split list lie beside it.")],
    config_path: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="What it was trained with.")],
    data: DataRoot = Path("."),
) -> None:
    """Write what input drift is measured from beside an artefact that has none, as an export does by itself."""
    with report_errors():
        from training.drift_reference import store_drift_reference

        manifest, source = store_drift_reference(artefact, read_config(config_path), data)
    print_line(f"drift reference of {manifest.name}: {source}")


def drift_reference_of(artefact: Path, config: Config, data: Path, cache: Path) -> None:
    """The same at an export, which goes without where the pictures are not at hand or too few, and says so."""
    from training.drift_reference import store_drift_reference

    try:
        print_line(f"drift reference: {store_drift_reference(artefact, config, data, cache)[1]}")
    except (DataError, ValueError, OSError) as error:
        warn(f"no drift reference: {error}; marrowlens-train drift-reference makes it later")
