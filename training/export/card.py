"""The model card: the manifest in words and tables, for people.

Knows the manifest and Markdown. Every figure in it stands in the manifest, but for the counts of confusions and the
time that training took, which the run's folder holds.
"""

import shlex
from collections.abc import Iterable
from pathlib import Path

from model.contract import Manifest, Metric, Precision
from training.config import Config
from training.evaluation.tables import LEGEND
from training.run import Evaluation, FitRecord, RunError

CARD = "MODEL_CARD.md"


def check_folder(folder: Path, name: str) -> None:
    """Return when a card of a model of this name may be written to a folder: no other's lies there.

    Raises:
        RunError: another's does.
    """
    path = folder / CARD
    if path.exists() and not (head := path.read_text(encoding="utf-8").partition("\n")[0]).startswith(f"# {name} "):
        raise RunError(path, f"is the card of {head.removeprefix('# ')}; give {name} a folder of its own with --out")


def model_card(manifest: Manifest, reproduction: str, evaluation: Evaluation) -> str:
    """MODEL_CARD.md of an artefact.

    Args:
        reproduction: the commands that make the artefact again, and what they took.
    """
    splits = list(dict.fromkeys(metric.split for metric in manifest.metrics))
    parts = [_head(manifest, evaluation.temperature_fitted), _classes(manifest)]
    parts += [_split(manifest, split, evaluation.confusion.get(split, [])) for split in splits]
    parts += [_legend(), _limits(manifest), _data(manifest), f"## Reproduce\n\n{reproduction}"]
    return "\n\n".join(parts) + "\n"


def reproduction(fit: FitRecord, config: Config, out: Path, precision: Precision) -> str:
    """How to make an artefact again: what must be there, the commands, what they took.

    Of files outside of the working directory the name alone is told: where they lay says something of a machine.
    """
    begun, teachers = config.model.init, [str(teacher) for teacher in config.distil.teachers]
    needed = [f"{_told(begun)}, what it begins with"] if begun else []
    needed += [f"{', '.join(map(_told, teachers))}, its teacher{'s' if len(teachers) > 1 else ''}"] if teachers else []
    before = f"First there must be {' and '.join(needed)}.\n\n" if needed else ""
    minutes = max(round(fit.train_s / 60), 1)
    alone = " This is the last run alone; what must be there first took its own time." if needed else ""
    libraries = ", ".join(f"{name} {version}" for name, version in fit.versions.items())
    return f"""{before}```sh
marrowlens-train fit {shlex.join(map(_told, shlex.split(fit.config)))} --data DATA --out RUN
marrowlens-train evaluate RUN --data DATA
marrowlens-train export RUN --data DATA --out {_told(str(out))}{" --precision fp16" if precision == "fp16" else ""}
```

Training took {minutes} min on {fit.device}, with {libraries}.{alone} On one CPU the commands repeat the bits, picked \
up after an interruption or not; on other devices they repeat the procedure."""


def _told(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() else path


def _head(m: Manifest, fitted: bool) -> str:
    size = m.preprocessing.input_size
    calibration = "fitted on the calibration block" if fitted else "which the calibration block does not determine"
    return f"""# {m.name} {m.version}

**Research use only. Not a medical device: a person reviews and signs, never the model.**

{m.intended_use}

| | |
|---|---|
| network | `{m.variant}` (`model/`), attention scales {", ".join(m.attention_scales)} |
| input | RGB uint8, {size} × {size} px, resized by `model/image.py` |
| outputs | {", ".join(f"`{name}` {list(shape)}" for name, shape in m.outputs.items())} |
| calibration | temperature {m.temperature:.3f}, {calibration}, in the graph |
| split | {m.split} |
| sha256 of the split list | `{m.split_sha256}`, `{m.name}.split.csv` beside this card |
| sha256 of the ONNX | `{m.sha256}` |
| licence of the weights | {m.licence} |"""


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
        "## Classes\n\nTraining pictures by source. Unsupported: too few of them show the intended tissue; "
        "nothing is claimed.\n\n" + _table(header, rows)
    )


def _split(m: Manifest, split: str, confusion: list[list[int]]) -> str:
    of_split = [metric for metric in m.metrics if metric.split == split]
    overall = [(metric.name, _figure(metric), metric.n) for metric in of_split if metric.code is None]
    recall = {metric.code: metric for metric in of_split if metric.name == "recall"}
    precision = {metric.code: metric for metric in of_split if metric.name == "precision"}
    rows = [
        (code, _figure(recall[code]), recall[code].n, _figure(precision[code]), precision[code].n) for code in recall
    ]
    return "\n\n".join(
        [
            f"## Figures: {split}",
            f"All {len(m.classes)} outputs compete. In brackets: 95 % interval (Wilson; macro F1 and balanced "
            "accuracy: bootstrap). The mix of classes is that of this block, not "
            "that of a patient's specimen, so precision will differ there. Supported means supported on the intended "
            "tissue.",
            _table(("figure", "value", "n"), overall),
            _table(("class", "recall", "n", "precision", "n predicted"), rows),
            _confusions(m, confusion),
        ]
    )


def _confusions(m: Manifest, confusion: list[list[int]]) -> str:
    """The confusion matrix, of the classes that occur or are named."""
    named = [i for i, row in enumerate(confusion) if sum(row) or any(other[i] for other in confusion)]
    rows = [(f"**{m.codes[true]}**", *(confusion[true][i] or "" for i in named)) for true in named]
    return "Rows: true class; columns: class named.\n\n" + _table(("", *(m.codes[i] for i in named)), rows)


def _legend() -> str:
    return "## Reading the figures\n\n" + _table(
        ("figure", "what"), ((", ".join(f"`{name}`" for name in names), what) for names, what in LEGEND)
    )


def _limits(m: Manifest) -> str:
    stated = m.limits or ("Its makers state no limits. Take it for untested.",)
    return "## What it cannot do\n\n" + "\n".join(f"- {limit}" for limit in stated)


def _data(m: Manifest) -> str:
    lines = [
        f"- **{s.name}** ({s.tissue}, {s.licence}): {sum(s.training_images.values())} pictures. {s.attribution}"
        for s in m.sources
    ]
    of_data = {source.attribution for source in m.sources}
    lines += [f"- {text}" for text in m.attribution if text not in of_data]
    return "## Data\n\n" + "\n".join(lines)


def _figure(metric: Metric) -> str:
    if metric.n == 0:
        return "undefined"
    if metric.low is None or metric.high is None:
        return f"{metric.value:.3f}"
    return f"{metric.value:.3f} ({metric.low:.3f}–{metric.high:.3f})"


def _table(header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
