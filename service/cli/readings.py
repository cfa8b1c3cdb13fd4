"""`marrowlens readings`: what people have read, as a training list, and its agreement with the model."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from model import atomic_file
from model.plural import plural
from service.cli.lis import laboratory_pictures, open_session, operator
from service.cli.output import AsJson, stop
from service.cli.tables import new_table, print_tables
from service.lis.agreement import agreement_of
from service.lis.domain.read_cells import export_read_cells, list_read_cells
from service.lis.schemas import Agreement, Share
from service.lis.storage.file_rights import create_private_folder
from service.lis.training_list import LIST_NAME, File, exported

#: Exit code of `agreement` if too few cells were read.
TOO_FEW = 1

readings = typer.Typer()


@readings.command()
def export(
    folder: Annotated[Path, typer.Argument(help="New or empty folder for readings.csv and the pictures.")],
) -> None:
    """Write the cells that people have read as a training list, with the stored pictures.

    `marrowlens-train` and `marrowlens verify --labels` read the list. It names readers, and patients by a pseudonym.
    The audit trail records the export.

    Exit codes: 0 written, 2 nothing was written.
    """
    store = laboratory_pictures()
    if store is None:
        stop("pictures are not stored, so a list would be empty; set MARROWLENS_LIS_PICTURES")
    if folder.exists() and any(folder.iterdir()):
        stop(f"{folder} is not empty; name a new folder")
    with open_session(writing=True) as session:
        cells = export_read_cells(session, operator())
    written = _write(folder, exported(cells, lambda sha256: store.get(sha256, "picture")))
    typer.echo(f"{folder / LIST_NAME}: {plural(written, 'cell')}")
    if missing := len(cells) - written:
        typer.echo(f"left out: {plural(missing, 'cell')} without a stored picture (not stored, or expired)", err=True)


@readings.command()
def agreement(as_json: AsJson = False) -> None:
    """Show how often the readers' class is the model's suggestion: overall, by class and by reader.

    Readers saw the suggestion, and doubtful cells are read first: for a verification use `marrowlens verify`.

    Exit codes: 0 shown, 1 too few cells were read, 2 invalid settings or no database.
    """
    with open_session() as session:
        found = agreement_of(list_read_cells(session))
    if as_json:
        typer.echo(found.json_bytes())
    else:
        _show(found)
    if not found.enough:
        typer.echo(f"{plural(found.cells, 'cell')} read; {found.minimum} are needed for shares", err=True)
        raise typer.Exit(TOO_FEW)


def _write(folder: Path, files: Iterable[File]) -> int:
    """Write the files; returns the number of pictures."""
    create_private_folder(folder)
    pictures = 0
    for name, content in files:
        path = folder / name
        create_private_folder(path.parent)
        atomic_file.write_bytes(path, content)
        pictures += name != LIST_NAME
    return pictures


def _show(found: Agreement) -> None:
    kappa = "" if found.kappa is None else f"; Cohen's kappa {found.kappa:.2f}"
    typer.echo(
        f"{plural(found.cells, 'cell')}, {plural(found.patients, 'patient')}; {_words(found.agreement)} agree{kappa}"
    )
    classes = new_table("class", "of the cells read so", "of the cells suggested so", title="the model agrees")
    for each in found.classes:
        classes.add_row(each.code, _words(each.of_read), _words(each.of_suggested))
    people = new_table("reader", "the model agrees")
    for reader in found.readers:
        people.add_row(reader.reader, _words(reader.agreement))
    print_tables(classes, people)


def _words(share: Share) -> str:
    counts = f"{share.hits} of {share.n}"
    if share.share is None:
        return counts
    return f"{counts}: {share.share:.0%} ({share.low:.0%} to {share.high:.0%})"
