"""The bar that a scoring run shows: pictures done, pictures a second, time left. Knows the screen and nothing else."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


def bar(console: Console, total: int, done: int = 0) -> Progress:
    """A bar with one task, whose number is 0; `done` of `total` pictures stand from before."""
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(), TextColumn("left"))
    progress = Progress(TextColumn("{task.description}"), *columns, console=console)
    progress.add_task("scoring", total=total, completed=done)
    return progress


class _Rate(ProgressColumn):
    """Pictures a second, over the last half minute."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} pictures/s" if task.speed else "")
