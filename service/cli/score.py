"""`marrowlens score`: the pictures of a folder to a table, in this process or on a Ray cluster."""

import sqlite3
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from model.contract import ArtefactError
from service.cli.output import Artefact, load_settings, open_model, stop
from service.cli.tables import error_console
from service.config.settings import Settings
from service.runtime.loader import InferenceOptions
from service.runtime.session import ProviderUnavailable
from service.scoring.local import checkpoint_path, score_folder
from service.scoring.ray.options import PART_SIZE, ClusterOptions, Duplicates, ScoreRequest, prepare_environment
from service.scoring.tables import ScoringError

SOME_PROBLEMS = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
RESUME = "scored pictures are kept; run the same command to resume"


class Engine(StrEnum):
    """Where pictures are scored: in this process, or by actors of a Ray cluster."""

    LOCAL = "local"
    RAY = "ray"


def _ray_option(help: str, minimum: float | None = None) -> typer.models.OptionInfo:
    return typer.Option(help=help, min=minimum, rich_help_panel="With --engine ray")  # type: ignore[no-any-return]


def score(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="FOLDER", help="Pictures, in subfolders too. With --engine ray also shards and stores."),
    ],
    out: Annotated[str, typer.Option(help="The table, .parquet, .csv or .jsonl; with --engine ray a folder.")],
    artefact: Artefact = None,
    engine: Annotated[Engine, typer.Option(help="This process, or actors of a Ray cluster.")] = Engine.LOCAL,
    address: Annotated[
        str | None, _ray_option("A running cluster, or auto. Default: $RAY_ADDRESS, or a cluster for this run.")
    ] = None,
    actors: Annotated[int | None, _ray_option("Number of actors. Default: as many as fit.", 1)] = None,
    cpus_per_actor: Annotated[
        int | None, _ray_option("CPUs and threads of each actor. Default: 1, or the share of its GPU.", 1)
    ] = None,
    gpus_per_actor: Annotated[
        float | None, _ray_option("GPUs of each actor, such as 0.5. Default: 1 if there are GPUs, else 0.", 0)
    ] = None,
    part_size: Annotated[int | None, _ray_option(f"Pictures per file of results. Default: {PART_SIZE}.", 1)] = None,
    duplicates: Annotated[
        Duplicates, _ray_option("If a key occurs twice: refuse the run, or use the first picture.")
    ] = Duplicates.REFUSE,
    key_column: Annotated[str, _ray_option("Parquet column with the name of a picture.")] = "key",
    image_column: Annotated[str, _ray_option("Parquet column with the bytes of a picture.")] = "image",
) -> None:
    """Score a folder of pictures into a table: path, code, probability, supported, p_CODE for each class, model_sha256.

    A model with a trust reference adds decision, reasons, prediction_set, novelty_p, and what these depend on:
    manifest_sha256 and review_classes (MARROWLENS_REVIEW_CLASSES).

    `supported` is a property of the predicted class, not of the cell. False: the class had too little training data.
    True: it had enough; but a cell of a class that the model does not know is also assigned one of its classes.

    Run the same command again to resume after an interruption or to add new pictures: paths in the table are not scored
    again. Paths are relative to the folder, so use one table per folder. Hidden files are left out.

    Skipped files are counted by kind: other file types, hidden files and folders, links to folders. They do not change
    the exit code. Links to pictures are read; results are not written through links.

    A picture that cannot be read does not stop the run. It is listed at the end and in OUT.problems.jsonl, and the next
    run tries it again. All other settings come from the environment (MARROWLENS_*), as for the service.

    With --engine ray (docs/ray.md) OUT is a folder of Parquet files; a picture that cannot be read has a row with the
    reason.

    Exit codes: 0 all scored, 1 some pictures had problems, 2 could not run, 130 interrupted.
    """
    console = error_console()
    settings = load_settings(artefact=artefact, drift_window=0)  # tables have no drift
    request = ScoreRequest(tuple(inputs), out, part_size, duplicates, key_column, image_column)
    cluster = ClusterOptions(address, actors, cpus_per_actor, gpus_per_actor)
    run = _score_on_ray if engine is Engine.RAY else _score_locally
    try:
        problems = run(request, cluster, settings, console)
    except (ArtefactError, ProviderUnavailable, ScoringError) as error:
        stop(str(error))
    except OSError as error:
        stop(f"{error.filename or out}: {error.strerror or error}; {RESUME}")
    except sqlite3.Error as error:
        stop(f"{checkpoint_path(Path(out))}: {error}; {RESUME}")
    except KeyboardInterrupt:
        console.print(f"interrupted; {RESUME}")
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(SOME_PROBLEMS if problems else 0)


def _score_locally(request: ScoreRequest, cluster: ClusterOptions, settings: Settings, console: Console) -> int:
    (folder, *more), defaults = request.inputs, ScoreRequest(request.inputs, request.out)
    if more or request != defaults or cluster != ClusterOptions():
        raise ScoringError("several inputs and the options of Ray need --engine ray")
    if "://" in folder + request.out:
        raise ScoringError("addresses of stores need --engine ray")
    options = InferenceOptions.from_settings(settings)
    return score_folder(Path(folder), Path(request.out), open_model(settings), options, console)


def _score_on_ray(request: ScoreRequest, cluster: ClusterOptions, settings: Settings, console: Console) -> int:
    prepare_environment(cluster.address)
    try:
        from service.scoring.ray.driver import score_on_ray  # imports Ray, fsspec and pyarrow
    except ModuleNotFoundError as error:
        raise ScoringError(f"--engine ray needs {error.name}: pip install -e '.[ray]', on every node") from error
    return score_on_ray(request, cluster, settings, console)
