"""What the commands of training say, and how: plain lines, tables, and errors that a person can mend.

Knows the terminal. Knows no command.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import typer
from rich import box
from rich import table as rich_table
from rich.console import Console
from rich.markup import escape

from model.contract import ArtefactError, Metric
from training.config import ConfigError
from training.data.samples import DataError
from training.evaluation.tables import Table, tables
from training.fit.distributed import this_process
from training.run import RunError, TrainingStopped

#: Of several processes of one training the first alone writes and speaks.
RANK = this_process().rank
#: Longer words are paths, and would push other columns off the screen.
MAX_WORD = 24
console = Console(quiet=RANK > 0)
stderr = Console(stderr=True, quiet=RANK > 0)
error_console = Console(
    stderr=True, quiet=this_process().local_rank > 0
)  # one that a single machine has must be said there


@contextmanager
def report_errors() -> Iterator[None]:
    """What a person can mend is one line and exit code 2."""
    try:
        yield
    except (ArtefactError, ConfigError, DataError, RunError, ValueError, OSError) as error:
        who = f"process {RANK}: " if RANK else ""
        error_console.print(f"{who}[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


@contextmanager
def report_interruption(said: Callable[[], None] = lambda: None) -> Iterator[None]:
    """What is said of a training that was stopped, and the exit code that a shell expects after a signal.

    Args:
        said: called when it has been said, before this process ends; where one ends by a code, torchrun kills others.
    """
    try:
        yield
    except TrainingStopped as halted:
        print_line(str(halted))
        said()
        # torchrun takes 0 for a training that has ended. Lightning kills the first where one of its others ends by a
        # code before it has spoken.
        told = halted.signum and (this_process().torchrun or not RANK)
        raise typer.Exit(128 + halted.signum if halted.signum and told else 0) from halted
    except KeyboardInterrupt as interrupt:
        print_line("interrupted; the same command goes on from the last checkpoint")
        raise typer.Exit(130) from interrupt


def print_line(text: str) -> None:
    """A line on standard output, as it is: a path may hold square brackets."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """A line on standard error, as it is."""
    stderr.print(text, highlight=False, markup=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """One table, and below it what has to be known to read it."""
    shown = rich_table.Table(
        title=escape(table.title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )
    for at, cell in enumerate(table.header):
        words = " ".join([cell, *(row[at] for row in table.rows)]).split()
        # A cell may be broken between its words, never within one: half an interval says nothing. A path may be.
        longest = max((len(word) for word in words if len(word) <= MAX_WORD), default=0)
        shown.add_column(escape(cell), overflow="fold", min_width=longest)
    for row in table.rows:
        shown.add_row(*(escape(cell) for cell in row))
    console.print(shown, highlight=False)
    if table.note:
        print_line(table.note)


def print_metrics(metrics: Iterable[Metric]) -> None:
    """The tables of every split."""
    metrics = tuple(metrics)
    for split in dict.fromkeys(metric.split for metric in metrics):
        print_line(f"\n{split}")
        for table in tables(metrics, split):
            print_table(table)
