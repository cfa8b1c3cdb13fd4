"""`marrowlens verify`: how well the model reads a laboratory's own cells, as a report, and thresholds of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.output import Artefact, load_settings, open_model, stop
from service.cli.tables import error_console, new_table, print_tables, say
from service.runtime.loader import InferenceOptions

if TYPE_CHECKING:
    from service.verification.document import Verification

NOT_VERIFIED = 1
DEFAULT_GOAL = 0.8
#: A drift window that holds every picture of a folder.
UNLIMITED_WINDOW = 1_000_000


def verify(
    folder: Annotated[
        Path,
        typer.Argument(help="Labelled cells: FOLDER/CLASS/ or FOLDER/CLASS/PATIENT/.", exists=True, file_okay=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the report; made if it is missing.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="A CSV instead of class folders: file, label, and optionally patient and reader."),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="NAME=CODE", help="Your name of a class; NAME=none if the model lacks it."),
    ] = None,
    goals: Annotated[
        list[str] | None,
        typer.Option(
            "--goal", metavar="[CODE=]SHARE", help="Minimum sensitivity and predictive value. Default: 0.8 for all."
        ),
    ] = None,
    precision: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=0.3,
            help="Half width up to which an interval is precise; a precise share not above the goal is not verified.",
        ),
    ] = 0.1,
    write_trust: Annotated[
        Path | None,
        typer.Option(help="Write thresholds fitted to these cells, for MARROWLENS_TRUST_REFERENCE."),
    ] = None,
    details: Annotated[
        list[str] | None,
        typer.Option("--detail", metavar="NAME=TEXT", help="A line of the report, such as 'stain=Pappenheim'."),
    ] = None,
    artefact: Artefact = None,
) -> None:
    """Verify the model on your own labelled cells (docs/verify.md).

    OUT gets verification.html and verification.pdf (the report), verification.json (every figure) and cells.csv (every
    cell by its file name). Names of files and patients are in cells.csv only; the report shows pictures of cells.

    Exit codes: 0 every supported class with a labelled cell is verified, 1 one is not or has too few cells, 2 not run.
    """
    try:
        from service.verification.run import VerificationRequest, run  # imports scipy, matplotlib and reportlab
    except ModuleNotFoundError as error:
        stop(f"verify needs {error.name}: pip install -e '.[service,cpu,verify]'")
    from service.verification.errors import VerificationError

    console = error_console()
    settings = load_settings(artefact=artefact, drift_window=UNLIMITED_WINDOW)
    session = open_model(settings)
    try:
        goal_by_class, default = _goals(goals or [], session.manifest.codes)
        request = VerificationRequest(
            folder=folder,
            out=out,
            labels=labels,
            mapping=_pairs(mapping or [], "--map", "NAME=CODE"),
            goals=goal_by_class,
            precision=precision,
            write_trust=write_trust,
            count_other=settings.count_other,
            default_goal=default,
            details=_pairs(details or [], "--detail", "NAME=TEXT"),
            trust_reference=settings.trust_reference,
        )
        document = run(request, session, InferenceOptions.from_settings(settings), console)
    except VerificationError as error:
        stop(str(error))
    except OSError as error:
        stop(f"{error.filename or out}: {error.strerror or error}")
    _print(document)
    say(console, f"report: {out / 'verification.html'}")
    if write_trust is not None:
        say(console, f"thresholds: {write_trust}; serve with MARROWLENS_TRUST_REFERENCE={write_trust}")
    judged = [each for each in document.classes if each.supported and each.sensitivity.n]
    is_verified = bool(judged) and all(each.verdict == "verified" for each in judged)
    raise typer.Exit(0 if is_verified else NOT_VERIFIED)


def _pairs(options: list[str], name: str, form: str) -> dict[str, str]:
    """NAME=VALUE options; the last = divides."""
    pairs = {}
    for option in options:
        key, equals, value = option.rpartition("=")
        if not equals or not key or not value:
            stop(f"{name} {option}: write {form}")
        if key in pairs:
            stop(f"{name} {key} is given twice")
        pairs[key] = value
    return pairs


def _goals(options: list[str], codes: tuple[str, ...]) -> tuple[dict[str, float], float | None]:
    """The goal of each class of the model, and the default if some classes have it."""
    own: dict[str, float] = {}
    given: set[str] = set()
    for option in sorted(options, key=lambda option: "=" in option):  # that for all classes first
        code, _, text = option.rpartition("=")
        try:
            share = float(text)
        except ValueError:
            share = -1
        if not 0 < share < 1:
            stop(f"--goal {option}: {text} is not a share between 0 and 1, such as 0.85")
        if code and code not in codes:
            stop(f"--goal {option}: the model has no class {code}; it has {', '.join(codes)}")
        if (code or "all classes") in given:
            stop(f"--goal is given twice for {code or 'all classes'}")
        given.add(code or "all classes")
        own |= {code: share} if code else dict.fromkeys(codes, share)
    goals = {code: own.get(code, DEFAULT_GOAL) for code in codes}
    return goals, DEFAULT_GOAL if len(own) < len(codes) else None


def _print(document: "Verification") -> None:
    from service.verification.tables import outlook, rate_text

    table = new_table("class", "verdict", "cells", "sensitivity", "predictive value", "outlook")
    for each in document.classes:
        if not each.supported:
            continue
        rates = (rate_text(rate) for rate in (each.sensitivity, each.predictive_value))
        table.add_row(each.code, each.verdict, str(each.sensitivity.n), *rates, outlook(each))
    print_tables(table)
