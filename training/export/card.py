"""The model card: MODEL_CARD.md of an artefact, from its manifest and the run folder."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from model.contract import Manifest
from model.report.page import Table
from training.config import Config
from training.evaluation.tables import LEGEND, diagnosis_tables, patients_sentence, temperature_text, with_interval
from training.run import Evaluation, EvaluationCount, FitRecord, RunError

CARD = "MODEL_CARD.md"


def check_folder(folder: Path, name: str) -> None:
    """Check that a folder contains no card of another model.

    Raises:
        RunError: it does.
    """
    path = folder / CARD
    if path.exists() and not (head := path.read_text(encoding="utf-8").partition("\n")[0]).startswith(f"# {name} "):
        raise RunError(path, f"is the card of {head.removeprefix('# ')}; choose another folder for {name} with --out")


def model_card(manifest: Manifest, reproduction: str, evaluation: Evaluation, count: EvaluationCount) -> str:
    """MODEL_CARD.md of an artefact.

    Args:
        reproduction: text of `reproduction`.
        count: how often the test block was measured.
    """
    splits = list(dict.fromkeys(metric.split for metric in manifest.metrics))
    parts = [_head(manifest, evaluation, count), _classes(manifest)]
    patients = {split: evaluation.patients.get(source) for source, split in evaluation.splits.items()}
    parts += [_split(manifest, split, evaluation.confusion.get(split, []), patients.get(split)) for split in splits]
    parts += [_diagnosis(table) for table in diagnosis_tables(evaluation)]
    parts += [_legend(), _limits(manifest), _data(manifest), f"## Reproduce\n\n{reproduction}"]
    return "\n\n".join(parts) + "\n"


def reproduction(fit: FitRecord, config: Config, out: Path, manifest: Manifest) -> str:
    """How to reproduce an artefact: prerequisites, commands, training time.

    Absolute paths are reduced to file names, since they describe a machine.
    """
    init, teachers = config.model.init, [str(teacher) for teacher in config.distil.teachers]
    needed = [f"the initial weights {_portable(init)}"] if init else []
    needed += [f"the teacher{'s' * (len(teachers) > 1)} {', '.join(map(_portable, teachers))}"] if teachers else []
    before = f"Requires {' and '.join(needed)}.\n\n" if needed else ""
    minutes = max(round(fit.train_s / 60), 1)
    alone = " This excludes the training of the required weights." if needed else ""
    libraries = ", ".join(f"{name} {version}" for name, version in fit.versions.items())
    options = " --precision fp16" * (manifest.precision == "fp16") + " --allow-inert" * bool(manifest.inert)
    return f"""{before}```sh
marrowlens-train fit {shlex.join(map(_portable, shlex.split(fit.config)))} --data DATA --out RUN
marrowlens-train evaluate RUN --data DATA
marrowlens-train export RUN --data DATA --out {_portable(str(out))}{options}
```

Training took {minutes} min on {fit.device}, with {libraries}.{alone} On one CPU the result is bit-identical, \
interrupted or not; on other devices only the procedure is the same."""


def _portable(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path


def _head(m: Manifest, evaluation: Evaluation, count: EvaluationCount) -> str:
    size = m.preprocessing.input_size
    attention = f"attention scales {', '.join(m.attention_scales)}" if m.has_attention else "no attention maps"
    return f"""# {m.name} {m.version}

**Research use only. Not a medical device: a person reviews and signs, never the model.**

{m.intended_use}
{_inert(m)}
| | |
|---|---|
| network | `{m.variant}` (`model/`), {attention} |
| input | RGB uint8, {size} × {size} px, resized by `model/image.py` |
| outputs | {", ".join(f"`{name}` {list(shape)}" for name, shape in m.outputs.items())} |
| calibration | temperature {temperature_text(evaluation)}, in the graph |
| split | {m.split} |
| test block | {_evaluations(count)} |
| sha256 of the split list | `{m.split_sha256}`, `{m.name}.split.csv` beside this card |
| sha256 of the ONNX | `{m.sha256}` |
| licence of the weights | {m.licence} |"""


def _evaluations(count: EvaluationCount) -> str:
    if not count.same_weights:
        return "number of evaluations not recorded"
    text = f"measured {_times(count.same_weights)} with these weights"
    if earlier := count.in_folder - count.same_weights:
        text += f", {_times(earlier)} with other weights of this configuration"
    return text


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _inert(m: Manifest) -> str:
    """A paragraph on inert parts; an empty text if there are none."""
    return (
        f"\n**Answers do not depend on {', '.join(m.inert)}** (see Effect of the network's parts).\n" if m.inert else ""
    )


def _diagnosis(table: Table) -> str:
    return f"## {table.title}\n\n{table.note}\n\n{_table(table.header, table.rows)}"


def _classes(m: Manifest) -> str:
    header = ("code", "class", *(f"{source.name} ({source.tissue})" for source in m.sources), "supported")
    rows = [
        (
            c.code,
            c.name,
            *(source.training_images.get(c.code, 0) for source in m.sources),
            "no" if c.code in m.unsupported else "yes",
        )
        for c in m.classes
    ]
    return (
        "## Classes\n\nTraining pictures by source. Unsupported: too few training pictures of the intended tissue; "
        "no performance is claimed." + (_more_classes() if m.unsupported else "") + "\n\n" + _table(header, rows)
    )


def _more_classes() -> str:
    return (
        " To support more classes, train on pictures of them: docs/own-classes.md for your own folders, "
        "docs/training-at-scale.md for all 21 classes of Matek et al. 2021 (doi 10.7937/TCIA.AXH3-T579)."
    )


def _split(m: Manifest, split: str, confusion: list[list[int]], patients: int | None) -> str:
    of_split = [metric for metric in m.metrics if metric.split == split]
    overall = [(metric.name, with_interval(metric), metric.n) for metric in of_split if metric.code is None]
    recall = {metric.code: metric for metric in of_split if metric.name == "recall"}
    precision = {metric.code: metric for metric in of_split if metric.name == "precision"}
    rows = [
        (code, with_interval(recall[code]), recall[code].n, with_interval(precision[code]), precision[code].n)
        for code in recall
    ]
    return "\n\n".join(
        [
            f"## Results: {split}",
            f"All {len(m.classes)} outputs compete. In brackets: 95 % interval (Wilson; macro F1 and balanced "
            f"accuracy: Bayesian bootstrap, smoothed). {patients_sentence(patients)} Class frequencies are those "
            "of this block; in a patient's specimen they differ, and "
            "so does precision. Supported means supported on the intended tissue.",
            _table(("metric", "value", "n"), overall),
            _table(("class", "recall", "n", "precision", "n predicted"), rows),
            _confusions(m, confusion),
        ]
    )


def _confusions(m: Manifest, confusion: list[list[int]]) -> str:
    """The confusion matrix of the classes that occur or are predicted."""
    used = [i for i, row in enumerate(confusion) if sum(row) or any(other[i] for other in confusion)]
    rows = [(f"**{m.codes[true]}**", *(confusion[true][i] or "" for i in used)) for true in used]
    return "Rows: true class; columns: predicted class.\n\n" + _table(("", *(m.codes[i] for i in used)), rows)


def _legend() -> str:
    return "## Metrics\n\n" + _table(
        ("metric", "definition"), ((", ".join(f"`{name}`" for name in names), what) for names, what in LEGEND)
    )


def _limits(m: Manifest) -> str:
    stated = m.limits or ("No limits are stated: treat the model as untested.",)
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in stated)


def _data(m: Manifest) -> str:
    lines = [
        f"- **{s.name}** ({s.tissue}, {s.licence}): {sum(s.training_images.values())} pictures. {s.attribution}"
        for s in m.sources
    ]
    of_data = {source.attribution for source in m.sources}
    lines += [f"- {text}" for text in m.attribution if text not in of_data]
    return "## Data\n\n" + "\n".join(lines)


def _table(header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
