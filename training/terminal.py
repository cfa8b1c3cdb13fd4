"""Terminal output of the training commands: lines, tables, one-line errors and exit codes."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich import box
from rich import table as rich_table
from rich.console import Console
from rich.markup import escape

from model.contract import ArtefactError
from model.report.page import Table
from training.config import ConfigError
from training.data.samples import DataError
from training.evaluation.tables import evaluation_tables
from training.process import this_process
from training.run import Evaluation, RunError, TrainingStopped

#: Only rank 0 of a distributed training prints.
RANK = this_process().rank
#: Packages that the evaluation of an artefact does without.
OPTIONAL_PACKAGES = frozenset({"torch", "torchvision", "torchmetrics", "lightning", "timm", "onnx", "safetensors"})
#: Longer words are paths; they may be broken, so that they do not push other columns off the screen.
MAX_WORD = 24
console = Console(quiet=RANK > 0)
stderr = Console(stderr=True, quiet=RANK > 0)
error_console = Console(stderr=True, quiet=this_process().local_rank > 0)  # one process per machine reports errors


@contextmanager
def report_errors() -> Iterator[None]:
    """Print expected errors (input, files, configuration) as one line and exit with code 2."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in OPTIONAL_PACKAGES:
            raise
        stderr.print(f"marrowlens-train: {package} is not installed: pip install -e '.[training]'", markup=False)
        raise typer.Exit(2) from error
    except (ArtefactError, ConfigError, DataError, RunError, ValueError, OSError) as error:
        process = f"process {RANK}: " if RANK else ""
        error_console.print(f"{process}[bold red]error:[/] {escape(_sentence(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}the disk is full; free some space and run the same command again: a training resumes"
    return str(error)


@contextmanager
def report_interruption(reported: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Report a stopped training and exit with the code that shells expect: 128 + signal; 0 after `--steps`.

    Args:
        reported: called after the report and before this process exits; torchrun kills the others when one exits
            with a code.
    """
    try:
        yield
    except TrainingStopped as stopped:
        print_line(str(stopped))
        reported()
        # torchrun needs a code from every process, because it takes 0 for a finished training. Of Lightning's own
        # processes only rank 0 may exit with a code: another one would kill it before it has printed.
        by_code = stopped.signum and (this_process().torchrun or not RANK)
        raise typer.Exit(128 + stopped.signum if stopped.signum and by_code else 0) from stopped
    except KeyboardInterrupt as interrupt:
        print_line("interrupted; run the same command to resume from the last checkpoint")
        raise typer.Exit(130) from interrupt


def print_line(text: str) -> None:
    """Print a line to standard output, without markup: a path may contain square brackets."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a line to standard error, without markup."""
    stderr.print(text, highlight=False, markup=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table and its note."""
    shown = rich_table.Table(
        title=escape(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    for at, cell in enumerate(table.header):
        words = " ".join([cell, *(row[at] for row in table.rows)]).split()
        # Cells break between words, so that an interval is never cut; only long words (paths) are broken.
        longest = max((len(word) for word in words if len(word) <= MAX_WORD), default=0)
        shown.add_column(escape(cell), overflow="fold", min_width=longest)
    for row in table.rows:
        shown.add_row(*(escape(cell) for cell in row))
    console.print(shown, highlight=False)
    if table.note:
        print_line(table.note)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the tables of every source."""
    for source, split in evaluation.splits.items():
        print_line(f"\n{split}")
        for table in evaluation_tables(evaluation, source):
            print_table(table)
