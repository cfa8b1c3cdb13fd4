"""The progress bar of a scoring run: pictures done, pictures per second, time left."""

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


def progress_bar(console: Console, total: int, done: int = 0) -> Progress:
    """A progress bar with one task; `done` of `total` pictures were scored by an earlier run."""
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn(), TextColumn("left"))
    progress = Progress(TextColumn("{task.description}"), *columns, console=console)
    progress.add_task("scoring", total=total, completed=done)
    return progress


class _Rate(ProgressColumn):
    """Pictures per second, over the last 30 s."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} pictures/s" if task.speed else "")
