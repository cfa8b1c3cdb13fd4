"""The options of `marrowlens score` that only --engine ray has. Knows the command line, and is imported with it."""

from typing import Annotated

import typer

from service.scoring.ray.request import PART_SIZE, Duplicates


def _option(help: str, least: float | None = None) -> typer.models.OptionInfo:
    return typer.Option(help=help, min=least, rich_help_panel="With --engine ray")  # type: ignore[no-any-return]


Address = Annotated[str | None, _option("A running cluster, or auto. Default: $RAY_ADDRESS, else one for this run.")]
Actors = Annotated[int | None, _option("How many. Default: as many as there is room for.", 1)]
CpusPerActor = Annotated[int | None, _option("CPUs and threads of each. Default: 1, or its GPU's share.", 1)]
GpusPerActor = Annotated[float | None, _option("Such as 0.5. Default: 1 where there are GPUs, else 0.", 0)]
PartSize = Annotated[int | None, _option(f"Pictures in one file of results. Default: {PART_SIZE}.", 1)]
OnDuplicates = Annotated[Duplicates, _option("A key that comes twice: refuse the run, or take the first.")]
KeyColumn = Annotated[str, _option("The column of Parquet that names a picture.")]
ImageColumn = Annotated[str, _option("The column of Parquet that holds its bytes.")]
