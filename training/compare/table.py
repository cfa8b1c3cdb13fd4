"""Results of a comparison as Markdown, CSV and JSON."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from model import atomic_file, csv_file
from model.parts import CROSS_SCALE_PART, MLKA_PART
from model.report.figure import ReportFigure
from training.compare.results import Difference, Estimate, PartEffect, Results, Row, TissueResult
from training.evaluation.tables import patients_sentence

Column = tuple[str, Callable[[Row], str]]  # header, and the cell of a row
NONE = "–"
#: Parts with columns in the Markdown table; CSV and JSON have all parts.
LESION_PARTS = (MLKA_PART, CROSS_SCALE_PART)


def write(results: Results, out: Path, plot: ReportFigure | None) -> None:
    """Write comparison.json, comparison.csv and comparison.md.

    Args:
        plot: saved in the same folder.
    """
    atomic_file.write_text(out / "comparison.json", results.model_dump_json(indent=1) + "\n")
    atomic_file.write_text(out / "comparison.csv", as_csv(results))
    atomic_file.write_text(out / "comparison.md", as_markdown(results, plot))


def as_markdown(results: Results, plot: ReportFigure | None) -> str:
    """Title, question, table, failed runs, plot and notes."""
    columns = _columns(results)
    lines = [
        f"# {results.title}",
        "",
        *([results.question, ""] if results.question else []),
        f"| {' | '.join(_escaped(head) for head, _ in columns)} |",
        f"|{'|'.join(':--' if not at else '--:' for at in range(len(columns)))}|",
        *(f"| {' | '.join(_escaped(cell(row)) for _, cell in columns)} |" for row in results.rows),
        "",
        *(f"Failed: `{name}`: {reason}\n" for name, reason in results.failures.items()),
        *([f"![{plot.alt}]({plot.name}.svg)", "", plot.caption, ""] if plot else []),
        "\n\n".join(_notes(results)),
    ]
    return "\n".join(lines) + "\n"


def _escaped(cell: str) -> str:
    return cell.replace("|", r"\|")


def _columns(results: Results) -> list[Column]:
    rows = results.rows
    first = rows[0]
    columns: list[Column] = [("entry", lambda row: row.title)]
    for at, on in enumerate(first.on):
        columns += _tissue_columns(on.tissue, on.n, intended=at == 0, compared=len(rows) > 1)
    for part in LESION_PARTS:
        columns += _part_columns(rows, part)
    columns += [
        ("parameters, M", lambda row: _scaled(row.parameters, 1e6, 2)),
        ("multiply-adds, G", lambda row: _scaled(row.multiply_adds, 1e9, 3)),
    ]
    for at, timing in enumerate(first.timings):
        columns.append((f"pictures/s, batch {timing.batch}", _pictures_per_s(at)))
    if first.timings:
        columns.append((f"× {first.title}, batch {first.timings[-1].batch}", _ratio))
    varying: list[tuple[str, Callable[[Row], str]]] = [
        ("input, px", lambda row: str(row.input_size)),
        ("seeds", lambda row: str(len(row.seeds))),
        ("training pictures", lambda row: str(row.training_pictures)),
        ("pictures seen", lambda row: str(row.pictures_seen)),
    ]
    columns += [column for column in varying if len({column[1](row) for row in rows}) > 1]
    return [*columns, ("training, min", lambda row: f"{row.train_minutes:.1f}")]


def _tissue_columns(tissue: str, n: int, intended: bool, compared: bool) -> list[Column]:
    """Columns of one tissue; differences and p values for the intended tissue only."""

    def of(row: Row) -> TissueResult | None:
        return next((on for on in row.on if on.tissue == tissue), None)

    def shown(read: Callable[[TissueResult], str]) -> Callable[[Row], str]:
        def cell(row: Row) -> str:
            on = of(row)
            return read(on) if on else NONE

        return cell

    where = f"{tissue}, n = {n}"
    columns: list[Column] = [
        (f"accuracy, % ({where})", shown(lambda on: _with_spread(on.accuracy, on.accuracy_by_seed))),
        (f"macro F1, % ({where})", shown(lambda on: _with_spread(on.macro_f1, on.macro_f1_by_seed))),
    ]
    if intended and compared:
        columns += [
            ("accuracy minus first, points", shown(lambda on: _points(on.accuracy_difference))),
            ("p", shown(lambda on: _p(on.accuracy_difference))),
        ]
    return columns


def _part_columns(rows: Sequence[Row], part: str) -> list[Column]:
    """Answers changed and change of accuracy without a part; none if no entry has it."""

    def of(row: Row) -> PartEffect | None:
        return next((effect for effect in row.parts if effect.part == part), None)

    def changed(row: Row) -> str:
        effect = of(row)
        return f"{100 * effect.changed:.1f}{_seed_range(effect.changed_by_seed)}" if effect else NONE

    def accuracy_change(row: Row) -> str:
        effect = of(row)
        if not effect:
            return NONE
        return f"{100 * effect.accuracy_change:+.1f}{_seed_range(effect.accuracy_change_by_seed, '+')}"

    if not any(of(row) for row in rows):
        return []
    return [
        (f"answers changed without {part}, %", changed),
        (f"accuracy change without {part}, points", accuracy_change),
    ]


def _with_spread(found: Estimate, by_seed: Sequence[float]) -> str:
    return f"{100 * found.value:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f}){_seed_range(by_seed)}"


def _seed_range(by_seed: Sequence[float], sign: Literal["-", "+"] = "-") -> str:
    """Smallest and largest of several shares in percent; empty for one seed."""
    if len(by_seed) < 2:
        return ""
    return f"; seeds {100 * min(by_seed):{sign}.1f} to {100 * max(by_seed):{sign}.1f}"


def _points(found: Estimate | None) -> str:
    if not found:
        return NONE
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _p(found: Difference | None) -> str:
    if not found or found.p_holm is None:
        return NONE
    return "< 0.001" if found.p_holm < 0.001 else f"{found.p_holm:.3f}"


def _scaled(number: int | None, unit: float, digits: int) -> str:
    return NONE if number is None else f"{number / unit:.{digits}f}"


def _pictures_per_s(at: int) -> Callable[[Row], str]:
    return lambda row: f"{row.timings[at].pictures_per_s:.0f}" if row.timings else NONE


def _ratio(row: Row) -> str:
    return f"{row.timings[-1].ratio:.2f}" if row.timings else NONE


def _notes(results: Results) -> list[str]:
    several = any(len(row.seeds) > 1 for row in results.rows)
    seeds = sorted({seed for row in results.rows for seed in row.seeds})
    first = results.rows[0]
    notes = [
        f"Split: {results.split}. Measured on the {results.block} block"
        f"{', not the test block' if results.block == 'calibration' else ''}.",
        f"Budget: {results.budget}. Input {_range([row.input_size for row in results.rows])} px; training pictures "
        f"{_range([row.training_pictures for row in results.rows])}, seen in training "
        f"{_range([row.pictures_seen for row in results.rows])}; seeds {', '.join(map(str, seeds))}"
        f"{'' if several else ', one run each: results vary with the seed'}.",
        "In brackets: 95 % intervals over these pictures (accuracy of one run: Wilson; otherwise 2000 draws "
        f"of the smoothed Bayesian bootstrap). {patients_sentence(first.on[0].patients if first.on else None)}",
    ]
    if len(results.rows) > 1:
        permuted = " (several seeds: a permutation test picture by picture)" if several else ""
        notes.append(
            f"Minus first: difference to {first.title} on the same pictures; p: McNemar's exact test{permuted}, "
            f"two-sided, corrected for the {len(results.rows) - 1} comparisons of the table (Holm)."
        )
    if any(row.parts for row in results.rows):
        notes.append(
            "Without a part: its outputs are replaced by their mean over the calibration pictures, which are then "
            "classified again; share of answers that change, and change of accuracy."
        )
    if first.timings:
        notes.append(
            "Pictures/s: onnxruntime on the CPU (classical: scikit-learn), all entries timed side by side, medians, "
            f"{results.threads} threads of {results.processor}."
        )
    libraries = ", ".join(f"{name} {found}" for name, found in sorted(results.versions.items()))
    return [*notes, f"Training: {results.device}; {libraries}."]


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def as_csv(results: Results) -> str:
    """A row for each entry and tissue; shares instead of percent; undefined values are empty."""
    cells = [
        _plain_cells(row) | _tissue_cells(on) | _part_cells(row) | _speed_cells(row)
        for row in results.rows
        for on in row.on
    ]
    names = dict.fromkeys(name for row in cells for name in row)
    text = io.StringIO()
    rows = csv_file.Writer(text)
    rows.writerow(names)
    rows.writerows([row.get(name, "") for name in names] for row in cells)
    return text.getvalue()


def _plain_cells(row: Row) -> dict[str, object]:
    return row.model_dump(exclude={"on", "parts", "timings"}) | {"seeds": " ".join(map(str, row.seeds))}


def _tissue_cells(on: TissueResult) -> dict[str, object]:
    found: dict[str, object] = {"tissue": on.tissue, "n": on.n}
    for name in ("accuracy", "macro_f1", "accuracy_difference", "macro_f1_difference"):
        estimate = getattr(on, name)
        if estimate is not None:
            found |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    if on.accuracy_difference:
        found |= {"p": on.accuracy_difference.p, "p_holm": on.accuracy_difference.p_holm}
    return found


def _part_cells(row: Row) -> dict[str, object]:
    found: dict[str, object] = {}
    for effect in row.parts:
        part = effect.part.replace(" ", "_")
        found[f"changed_without_{part}"] = effect.changed
        found[f"accuracy_change_without_{part}"] = effect.accuracy_change
    return found


def _speed_cells(row: Row) -> dict[str, object]:
    rates: dict[str, object] = {f"pictures_per_s_batch_{timing.batch}": timing.pictures_per_s for timing in row.timings}
    return rates | {f"ratio_batch_{timing.batch}": timing.ratio for timing in row.timings}
