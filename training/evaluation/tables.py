"""Tables of metrics as text, shared by the terminal, the model card and the HTML report."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from model.contract import Metric
from model.report.page import Table
from training.evaluation.selective import COVERAGES, RISK_LIMIT
from training.run import Evaluation, MeasuredCurve, MeasuredLesion, MeasuredMap, MeasuredResponse, MeasuredTrust

#: Largest ratio of the ends of a temperature's interval that still counts as determined.
MAX_TEMPERATURE_RATIO = 1.5

Lookup = Callable[..., Metric | None]  # name, code → the metric

_LIMIT = f"{RISK_LIMIT * 100:.0f}_risk"

#: Metric names (… is any prefix or suffix) → definition, as in a model card.
LEGEND: tuple[tuple[tuple[str, ...], str], ...] = (
    (("accuracy",), "share of pictures predicted as their own class; interval: Wilson"),
    (
        ("macro_f1", "weighted_f1", "balanced_accuracy"),
        "F1 averaged over classes, F1 averaged by class size, recall averaged over classes; intervals: Bayesian "
        "bootstrap with half a right and half a wrong picture added to each class",
    ),
    (
        ("auroc", "average_precision"),
        "of one class against all others: area under the ROC curve, and under the precision-recall curve",
    ),
    (("tolerant_…",), "a neighbouring stage of maturation counts as correct"),
    (
        ("lineage_…",),
        "another class of the same lineage counts as correct; a class without a lineage is a group of its own",
    ),
    (("nll",), "negative log likelihood of the label (the loss), in nats"),
    (("brier",), "squared distance of the probabilities to the label, 0 to 2"),
    (("ece",), "expected calibration error in 15 bins; biased upwards, without an interval"),
    (
        ("ece_by_chance",),
        "ECE of a perfectly calibrated model with these probabilities at this n, mean and 95 % of draws",
    ),
    (("…_before_temperature",), "the same before temperature scaling"),
    (
        ("accuracy_at_…_coverage", "threshold_at_…_coverage"),
        "accuracy of the most confident … % of the pictures, and the lowest top probability among them",
    ),
    (
        (f"coverage_at_{_LIMIT}", f"threshold_at_{_LIMIT}"),
        f"share answered if at most {RISK_LIMIT:.0%} of the answers are wrong, and the threshold of the top "
        "probability; optimistic, since the threshold is chosen on the pictures it is tested on",
    ),
    (
        (f"cross_coverage_at_{_LIMIT}", f"cross_accuracy_at_{_LIMIT}"),
        "cross-validated: the threshold is chosen on the other half of the pictures",
    ),
    (("aurc",), "area under the risk-coverage curve; 0 is best"),
)


def evaluation_tables(evaluation: Evaluation, source: str, names: Mapping[str, str] | None = None) -> list[Table]:
    """The tables of one source, without empty ones; together they contain every metric.

    Args:
        names: code → name of a class, written beside the code.
    """
    patients = evaluation.patients.get(source)
    return _tables(evaluation.metrics, evaluation.splits[source], patients, names or {})


def _tables(metrics: Iterable[Metric], split: str, patients: int | None, names: Mapping[str, str]) -> list[Table]:
    found = {(metric.name, metric.code): metric for metric in metrics if metric.split == split}
    used: set[tuple[str, str | None]] = set()

    def look(name: str, code: str | None = None) -> Metric | None:
        used.add((name, code))
        return found.get((name, code))

    codes = list(dict.fromkeys(code for _, code in found if code is not None))
    titles = {code: f"{code} {names[code]}" if code in names else code for code in codes}
    made = [_overall(look, patients), _classes(look, titles), _tolerant(look, titles), _ranking(look, titles)]
    made += [_calibration(look), _selective(look)]
    rest = tuple(
        (metric.name, metric.code or "", with_interval(metric), str(metric.n))
        for key, metric in found.items()
        if key not in used
    )
    made.append(Table("Further metrics", ("metric", "class", "value", "n"), rest, ""))
    return [table for table in made if table.rows]


def diagnosis_tables(evaluation: Evaluation) -> list[Table]:
    """Lesions, tests of the maps, responses to disturbances, decisions and prediction sets, as far as measured."""
    made = [lesion_table(evaluation.lesions)] if evaluation.lesions else []
    made += maps_tables(evaluation.maps)
    made += [responses_table(evaluation.responses)] if evaluation.responses else []
    return [*made, *trust_tables(evaluation.trust)] if evaluation.trust else made


def lesion_table(lesions: Sequence[MeasuredLesion]) -> Table:
    """What each part of the network contributes, measured on the calibration block."""
    rows = tuple(
        (
            lesion.part,
            str(lesion.n),
            f"{_percent(lesion.changed)} ({_percent(lesion.changed_low)}–{_percent(lesion.changed_high)})",
            f"{lesion.accuracy:.3f}",
            f"{_points(lesion.accuracy_change)} ({_points(lesion.accuracy_change_low)} to "
            f"{_points(lesion.accuracy_change_high)})",
        )
        for lesion in lesions
    )
    return Table(
        "Effect of the network's parts",
        ("part", "n", "answers changed, %", "accuracy", "change, points"),
        rows,
        "The output of the part is replaced by its mean over the calibration pictures of the intended tissue, and "
        "these pictures are classified again. Accuracy: without the part; change: relative to the intact network. In "
        "brackets: 95 % interval (answers changed: Wilson; change: paired bootstrap).",
    )


def maps_tables(maps: Sequence[MeasuredMap]) -> list[Table]:
    """Whether the maps lie on the cell, and whether the answers depend on what they mark; empty without maps."""
    if not maps:
        return []
    located = tuple(
        (
            one.map,
            f"{one.inside:.2f}",
            f"{one.inside_gaussian:.2f}",
            f"{one.inside_cell_sized:.2f}",
            f"{_points(one.inside_more)} ({_points(one.inside_more_low)} to {_points(one.inside_more_high)})",
            "" if one.shuffled_correlation is None else f"{one.shuffled_correlation:.2f}",
        )
        for one in maps
    )
    explained = tuple(
        (one.map, kind, *_curve(getattr(one, kind))) for one in maps for kind in ("deletion", "insertion")
    )
    n = maps[0].n
    return [
        Table(
            f"Maps on the cell, n = {n}",
            ("map", "inside the cell", "of a Gaussian", "cell-sized", "more, points", "shuffled weights"),
            located,
            "Inside the cell: share of the map within a rough mask, by thresholds, of the cell, which covers "
            f"{_percent(maps[0].cell_area)} % of the picture. Of a Gaussian: the same for a Gaussian in the middle of "
            "the picture, as wide as the map; cell-sized: as wide as an average cell. Shuffled weights: rank "
            "correlation with the map of the network with shuffled weights; near 0 if the map depends on what was "
            "learned. In brackets: 95 % bootstrap interval. Training with `fit.localisation` uses masks of this kind: "
            "the share inside is then its aim, not evidence.",
        ),
        Table(
            f"Maps and answers, n = {n}",
            ("map", "pixels", "probability", "disc", "random", "better than the disc"),
            explained,
            "Mean probability of the predicted class while 5 to 50 % of the pixels are deleted (lower is better) or "
            "inserted (higher is better), highest values of the map first; in the order of a disc, nearest to the "
            "middle first; and in random order. A map that is no better than the disc does not explain the answers. In "
            "brackets: 95 % bootstrap interval.",
        ),
    ]


def _curve(curve: MeasuredCurve) -> tuple[str, ...]:
    better = f"{curve.better:+.3f} ({curve.better_low:+.3f} to {curve.better_high:+.3f})"
    return f"{curve.map:.3f}", f"{curve.disc:.3f}", f"{curve.random:.3f}", better


def responses_table(responses: Sequence[MeasuredResponse]) -> Table:
    """Accuracy on disturbed pictures."""
    rows = tuple(
        (
            f"{one.disturbance} {one.strength:g} {one.unit}" if one.unit else one.disturbance,
            str(one.n),
            f"{one.accuracy:.3f} ({one.low:.3f}–{one.high:.3f})",
            f"{_points(one.change)} ({_points(one.change_low)} to {_points(one.change_high)})" if one.unit else "",
            _percent(one.confident_errors),
            *_accepted(one),
        )
        for one in responses
    )
    return Table(
        "Response to disturbances",
        (
            "pictures",
            "n",
            "accuracy",
            "change, points",
            "wrong above 0.9, %",
            "accepted, %",
            "their accuracy",
            "accepted and wrong above 0.9, %",
        ),
        rows,
        "Calibration pictures of the intended tissue, disturbed at twice the input size, then reduced to it. Blur: "
        "standard deviation of a Gaussian. Cell size, light and density: factors. Wrong above 0.9: share of all "
        "pictures with a wrong class of a probability above 0.9. Accepted: by the decision, with thresholds of the "
        "other nine folds of the block. In brackets: 95 % interval (accuracy: Wilson; change: paired bootstrap).",
    )


def _accepted(one: MeasuredResponse) -> tuple[str, ...]:
    if one.accepted is None or one.accepted_confident_errors is None:
        return "", "", ""
    accuracy = "" if one.accepted_accuracy is None else f"{one.accepted_accuracy:.3f}"
    return _percent(one.accepted), accuracy, _percent(one.accepted_confident_errors)


def trust_tables(trust: MeasuredTrust) -> list[Table]:
    """Decisions on known cells and on other pictures; coverage and size of the prediction sets."""
    decisions = tuple(
        (
            one.pictures,
            str(one.n),
            _percent(one.accepted),
            _percent(1 - one.accepted - one.rejected),
            _percent(one.rejected),
            "" if one.accuracy is None else f"{one.accuracy:.3f} ({one.low:.3f}–{one.high:.3f})",
            "" if one.auroc is None else f"{one.auroc:.2f}",
        )
        for one in trust.decisions
    )
    sets = tuple(
        (one.code or "all", str(one.n), f"{one.covered:.3f} ({one.low:.3f}–{one.high:.3f})", f"{one.size:.2f}")
        for one in trust.sets
    )
    measured = "the other nine folds of the block" if trust.known == "calibration block" else "the calibration block"
    return [
        Table(
            f"Decisions, {trust.known}",
            ("pictures", "n", "accepted, %", "reviewed, %", "rejected, %", "accuracy of accepted", "AUROC"),
            decisions,
            f"Thresholds: of {measured}. AUROC: chance that a picture is more novel than a known cell. In brackets: "
            "95 % Wilson interval.",
        ),
        Table(
            f"Prediction sets, {trust.known}",
            ("class", "n", "covered", "mean size"),
            sets,
            f"Covered: share of the known cells whose set contains their class; the sets aim at {trust.coverage:g} of "
            f"each class. Thresholds: of {measured}. In brackets: 95 % Wilson interval.",
        ),
    ]


def temperature_text(evaluation: Evaluation) -> str:
    """The temperature with its interval, and how it was fitted."""
    value = f"{evaluation.temperature:.3f}"
    if not evaluation.temperature_fitted:
        return f"{value}, not fitted: the calibration block does not determine it"
    if evaluation.temperature_low is None or evaluation.temperature_high is None:
        return f"{value}, fitted on the calibration block alone"
    interval = f"{evaluation.temperature_low:.2f}–{evaluation.temperature_high:.2f}"
    few = ", which are too few" if temperature_is_uncertain(evaluation) else ""
    return f"{value} ({interval}), fitted on {evaluation.temperature_n} calibration pictures{few}"


def temperature_is_uncertain(evaluation: Evaluation) -> bool:
    """Whether the ends of the temperature's interval differ by more than a factor of `MAX_TEMPERATURE_RATIO`."""
    low, high = evaluation.temperature_low, evaluation.temperature_high
    return low is not None and high is not None and high / low > MAX_TEMPERATURE_RATIO


def patients_sentence(patients: int | None) -> str:
    """How many patients stand behind the figures, and what that means for the intervals."""
    if patients is None:
        return "Patients: unknown; intervals take the pictures as independent, and are too narrow if patients are few."
    if patients == 1:
        return "Patients: 1; one patient says nothing about others, so intervals are 0 to 1."
    return f"Patients: {patients}; intervals account for pictures of one patient being alike."


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(change: float) -> str:
    return f"{100 * change:+.1f}"


def with_interval(metric: Metric | None) -> str:
    """A metric and its interval as text; "undefined" if n is 0."""
    if metric is None:
        return ""
    if metric.n == 0:
        return "undefined"
    if metric.low is None or metric.high is None:
        return f"{metric.value:.3f}"
    return f"{metric.value:.3f} ({metric.low:.3f}–{metric.high:.3f})"


def _n(metric: Metric | None) -> str:
    return "" if metric is None else str(metric.n)


def _not_empty(rows: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """The rows with a value beside their name."""
    return tuple(row for row in rows if any(row[1:]))


def _overall(look: Lookup, patients: int | None) -> Table:
    rows = []
    for name in ("accuracy", "macro_f1", "weighted_f1", "balanced_accuracy"):
        levels = [look(level + name) for level in ("", "tolerant_", "lineage_")]
        title = name.replace("_", " ").replace("f1", "F1")
        rows.append((title, *map(with_interval, levels), _n(levels[0])))
    return Table(
        "Accuracy and averages over classes",
        ("metric", "strict", "tolerant", "lineage", "n"),
        _not_empty(rows),
        "Strict: only the class itself is correct. Tolerant: a neighbouring stage of maturation is correct too. "
        "Lineage: another class of the same lineage is correct too; a class without a lineage is a group of its own. "
        "In brackets: 95 % interval (accuracy: Wilson; the others: Bayesian bootstrap, smoothed). "
        + patients_sentence(patients),
    )


def _classes(look: Lookup, titles: Mapping[str, str]) -> Table:
    return Table(
        "By class",
        ("class", "recall", "n", "precision", "n predicted", "F1", "n either"),
        _class_rows(look, titles, ""),
        "n: pictures of the class; n predicted: pictures predicted as the class; n either: of one or the other. In "
        "brackets: 95 % Wilson interval (F1: carried over from the share of hits among n either). Class frequencies "
        "are those of this block; in a patient's specimen they differ, and so does precision.",
    )


def _tolerant(look: Lookup, titles: Mapping[str, str]) -> Table:
    strict, tolerant = _class_rows(look, titles, ""), _class_rows(look, titles, "tolerant_")
    return Table(
        "By class, tolerant",
        ("class", "recall", "n", "precision", "n predicted", "F1", "n either"),
        tuple(row for row in tolerant if row not in strict),
        "Recall: pictures of the class predicted as it or as a neighbouring stage; precision: pictures predicted as "
        "the class that are of it or of a neighbouring stage. Classes never confused with a neighbouring stage are not "
        "listed.",
    )


def _ranking(look: Lookup, titles: Mapping[str, str]) -> Table:
    rows = []
    for code, title in titles.items():
        area, precision = look("auroc", code), look("average_precision", code)
        rows.append((title, with_interval(area), _n(area), with_interval(precision), _n(precision)))
    return Table(
        "By class, against all others",
        ("class", "AUROC", "n", "average precision", "n of the class"),
        _not_empty(rows),
        "AUROC: chance that a picture of the class has a higher probability of it than another picture. Average "
        "precision: area under the precision-recall curve; by chance it is the share of the class. In brackets: 95 % "
        "interval (AUROC: Newcombe's method 5; average precision: Wilson).",
    )


def _class_rows(look: Lookup, titles: Mapping[str, str], level: str) -> tuple[tuple[str, ...], ...]:
    rows = []
    for code, title in titles.items():
        found = [look(level + name, code) for name in ("recall", "precision", "f1")]
        rows.append((title, *(text for metric in found for text in (with_interval(metric), _n(metric)))))
    return _not_empty(rows)


def _calibration(look: Lookup) -> Table:
    rows = []
    for name in ("nll", "brier", "ece"):
        before, after = look(f"{name}_before_temperature"), look(name)
        rows.append((name, with_interval(before), with_interval(after), _n(after)))
    chance = look("ece_by_chance")
    rows.append(("ece by chance", "", with_interval(chance), _n(chance)))
    return Table(
        "Calibration",
        ("metric", "before temperature", "after", "n"),
        _not_empty(rows),
        "nll: negative log likelihood of the label (the loss), in nats. brier: squared distance to the label, 0 to 2. "
        "ece: expected calibration error in 15 bins; biased upwards, without an interval. ece by chance: ECE of a "
        "perfectly calibrated model with these probabilities at this n, mean and middle 95 % of 400 draws.",
    )


def _selective(look: Lookup) -> Table:
    rows = []
    for share in COVERAGES:
        name = f"{share * 100:.0f}_coverage"
        accuracy, threshold = look(f"accuracy_at_{name}"), look(f"threshold_at_{name}")
        title = f"most confident {share:.0%}"
        rows.append((title, "", _n(threshold), with_interval(accuracy), _n(accuracy), with_interval(threshold)))
    coverage, threshold = look(f"coverage_at_{_LIMIT}"), look(f"threshold_at_{_LIMIT}")
    title = f"at most {RISK_LIMIT:.0%} errors"
    rows.append((title, with_interval(coverage), _n(coverage), "", "", with_interval(threshold)))
    coverage, accuracy = look(f"cross_coverage_at_{_LIMIT}"), look(f"cross_accuracy_at_{_LIMIT}")
    title = "the same, cross-validated"
    rows.append((title, with_interval(coverage), _n(coverage), with_interval(accuracy), _n(accuracy), ""))
    area = look("aurc")
    rows.append(("area under risk-coverage curve", with_interval(area), _n(area), "", "", ""))
    return Table(
        "Selective classification",
        ("answered", "coverage", "n", "accuracy", "n answered", "threshold"),
        _not_empty(rows),
        "Pictures with a top probability of at least the threshold are answered; a person reads the others. The "
        f"threshold for {RISK_LIMIT:.0%} errors is optimistic: it is chosen on the pictures it is tested on. "
        "Cross-validated: chosen on the other half of the pictures. Thresholds may differ in another laboratory.",
    )
