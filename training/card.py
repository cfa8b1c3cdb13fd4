"""The model card: the manifest in words and tables, for people.

Knows the manifest and Markdown. Every figure in it stands in the manifest, but for the counts of confusions and the
time that training took, which the run's folder holds.
"""

from collections.abc import Iterable

from model.contract import Manifest, Metric


def model_card(manifest: Manifest, reproduction: str, confusion: dict[str, list[list[int]]]) -> str:
    """MODEL_CARD.md of an artefact.

    Args:
        reproduction: the commands that make the artefact again, and what they took.
        confusion: split → confusion matrix in class order; rows true, columns predicted.
    """
    splits = list(dict.fromkeys(metric.split for metric in manifest.metrics))
    parts = [_head(manifest), _classes(manifest)]
    parts += [_split(manifest, split, confusion.get(split, [])) for split in splits]
    parts += [_limits(manifest), _data(manifest), f"## Reproduce\n\n{reproduction}"]
    return "\n\n".join(parts) + "\n"


def _head(m: Manifest) -> str:
    size = m.preprocessing.input_size
    return f"""# {m.name} {m.version}

**Research use only. Not a medical device: a person reviews and signs, never the model.**

{m.intended_use}

| | |
|---|---|
| network | `{m.variant}` (`model/`), attention scales {", ".join(m.attention_scales)} |
| input | RGB uint8, {size} × {size} px, resized by `model/image.py` |
| outputs | {", ".join(f"`{name}` {list(shape)}" for name, shape in m.outputs.items())} |
| calibration | temperature {m.temperature:.3f}, fitted on the calibration block, in the graph |
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


def _limits(m: Manifest) -> str:
    stated = m.limits or ("Its makers state no limits. Take it for untested.",)
    return "## What it cannot do\n\n" + "\n".join(f"- {limit}" for limit in stated)


def _data(m: Manifest) -> str:
    lines = [
        f"- **{s.name}** ({s.tissue}, {s.licence}): {sum(s.training_images.values())} pictures. {s.attribution}"
        for s in m.sources
    ]
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
