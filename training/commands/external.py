"""The external validation of `evaluate`: a run or an artefact on another folder or list of pictures."""

from collections.abc import Sequence
from pathlib import Path

from training.data.index import by_suffix
from training.evaluation.tables import diagnosis_tables
from training.external import (
    ExternalResult,
    MeasuredModel,
    artefact_model,
    evaluate_external,
    external_source,
    run_model,
)
from training.pipeline import warn_unreadable
from training.report.report import CellMapper, seen_text, write_report
from training.run import RunFolder
from training.terminal import print_evaluation, print_line, print_table, warn


def external_validation(
    subject: Path,
    data: Path,
    out: Path | None,
    cache: Path | None,
    classes: Sequence[str],
    leave_out: Sequence[str],
    patient_pattern: str,
) -> None:
    """Measure a model, print its tables and write its report.

    Args:
        subject: an artefact, or a run folder.
        data: a folder of class folders, or a list.
        classes: NAME=CODE of classes with other names than the model's.

    Raises:
        ValueError: one of `classes` is not NAME=CODE.
    """
    artefact = subject.suffix == ".onnx"
    model = artefact_model(subject) if artefact else run_model(RunFolder(subject))
    root, source = external_source(data, _mapping(classes), leave_out, patient_pattern)
    out = out or _default_folder(subject, source.name)
    found = evaluate_external(model, root, source, out, cache)
    report = write_report(RunFolder(out), root, out, CellMapper(model.scales, model.maps))
    _print(model, found, report)


def _mapping(classes: Sequence[str]) -> dict[str, str]:
    mapping = {}
    for text in classes:
        name, separator, code = text.rpartition("=")
        if not separator or not name or not code:
            raise ValueError(f"--classes {text!r}: expected NAME=CODE, for example 'neutrophil segmented=NGS'")
        mapping[name] = code
    return mapping


def _default_folder(subject: Path, name: str) -> Path:
    return subject.with_name(f"{subject.stem}-on-{name}") if subject.suffix == ".onnx" else subject / f"on-{name}"


def _print(model: MeasuredModel, found: ExternalResult, report: Path) -> None:
    warn_unreadable(found.unreadable)
    for name, count in found.left_out.items():
        print_line(f"left out: {count} of {name!r}")
    if found.passed_over:
        print_line(f"passed over: {by_suffix(found.passed_over)}")
    print_line(f"{found.about.model} ({found.about.file}), temperature {model.temperature:.3f}, not fitted here")
    print_evaluation(found.evaluation)
    for table in diagnosis_tables(found.evaluation):
        print_table(table)
    measured = {metric.code for metric in found.evaluation.metrics if metric.name == "recall"}
    unsupported = [code for code in model.unsupported if code in measured]
    if unsupported:
        warn(
            f"the model does not support {', '.join(unsupported)}: its answers for these classes are not meant for use"
        )
    (warn if found.about.seen != 0 else print_line)(f"known pictures: {seen_text(found.about)}")
    print_line(f"report: {report}, tables and figures in the same folder; it contains pictures of cells")
