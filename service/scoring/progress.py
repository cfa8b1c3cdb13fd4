"""What a scoring run prints: the progress bar, the problems and the summary."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
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

from model.contract import RESEARCH_USE
from service.scoring.image_files import Skipped

#: Problems that are printed; the results have all of them.
PROBLEMS_SHOWN = 20


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


def print_problems(console: Console, count: int, first: Sequence[tuple[str, str]], where: str) -> None:
    """Print how many pictures could not be scored, and why the first could not.

    Args:
        first: name and reason of the first problems; empty if they occurred in an earlier run.
        where: where all reasons can be found.
    """
    if not count:
        return
    console.print(f"{count} could not be scored; {escape(where)}", soft_wrap=True)
    shown = first[:PROBLEMS_SHOWN]
    for name, reason in shown:
        console.print(f"  {escape(name)}: {escape(reason)}", soft_wrap=True)
    if shown and count > len(shown):
        console.print(f"  … and {count - len(shown)} more")


def print_summary(
    console: Console, out: str, pictures: int, now: int, skipped: Skipped, seconds: float | None = None
) -> None:
    """Print the number of pictures in the results, and of those that this run scored and skipped."""
    duration = "" if seconds is None else f" in {seconds:.1f} s"
    console.print(f"{escape(out)}: {pictures} pictures, {now} of them scored now{duration}", soft_wrap=True)
    if skipped:
        console.print(escape(str(skipped)), soft_wrap=True)
    console.print(RESEARCH_USE, soft_wrap=True)
