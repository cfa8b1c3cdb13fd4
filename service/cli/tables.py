"""Tables on stdout and lines on stderr, for the commands that report. `serve` does not import it, to start sooner."""

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

#: Columns of a table that is not printed to a terminal, so that no value is cut off.
FILE_COLUMNS = 200


def new_table(*columns: str, title: str | None = None) -> Table:
    """An empty table; without columns it gets no header. Long values wrap, except in the first column."""
    look = box.SIMPLE_HEAD if any(columns) else box.SIMPLE
    table = Table(title=title, title_justify="left", box=look, show_header=any(columns), pad_edge=False)
    for at, column in enumerate(columns):
        table.add_column(column, no_wrap=at == 0, overflow="fold")  # the first column is copied from
    return table


def print_tables(*tables: Table) -> None:
    """Print tables to stdout, `FILE_COLUMNS` wide if stdout is not a terminal."""
    console = Console(markup=False, highlight=False)
    for table in tables:
        console.print(table, width=None if console.is_terminal else FILE_COLUMNS)


def error_console() -> Console:
    """A console on stderr, for progress and summaries."""
    return Console(stderr=True, highlight=False)


def say(console: Console, text: str) -> None:
    """Print one line as it is: no markup, no wrapping."""
    console.print(escape(text), soft_wrap=True)
