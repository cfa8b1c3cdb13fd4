"""`marrowlens metrics`: every metric with its type, unit, labels and their values, as docs/metrics.md has them.

Knows which parts declare metrics, and Markdown. Knows no metric by name but those whose values stand in a table that
the metrics themselves cannot reach.
"""

from collections.abc import Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, get_args

import typer

from service.api.problems import TABLE
from service.telemetry.item_timing import FlushReason
from service.telemetry.metric_registry import LabelValues, MetricRegistry, MetricSpec
from service.telemetry.metrics import PROCESS, Metrics

PAGE = Path("docs/metrics.md")
_STALE = 1

_HEAD = """# Metrics

Written by `marrowlens metrics` from the code that counts; `make lint` and a test say when it is stale. What to look \
at, what to alert on and what to do then: [observability.md](observability.md).

`GET /metrics` answers in Prometheus' text format. Scrape every replica: the numbers are those of one process, and \
start at zero with it. No label carries what a client sent: no file name, no path, no address. A counter's series is \
there once its event has happened; what is alerted on at the first stands at 0 from the start: {at_nought}. A \
histogram `NAME` is three series: `NAME_bucket` with the label `le`, `NAME_sum` and `NAME_count`; a quantile is no \
more exact than the bucket it falls in."""
_LABORATORY = """There where a [laboratory](lis.md) is set up. The gauges are read from the database every second and \
are the same in every replica: take `max`, not `sum`. While the database does not answer they stand."""
_DRIFT = """Where the artefact has a reference to measure by, over the pictures that came last. Every replica \
measures what it has read itself. How: [drift.md](drift.md)."""
_PROCESS = """Of the process that serves, read from `/proc`; on Linux alone. Other programs have metrics of these \
names too: `and on (job, instance) marrowlens_ready` keeps those of marrowlens."""
_VALUES = "Values in `code` are a closed set, unless more is said."
_TABLE_HEAD = "| metric | type | unit | labels | what |\n|---|---|---|---|---|"
_VALUES_HEAD = "| metric | label | values |\n|---|---|---|"

#: Closed sets that stand above the metrics.
_FROM_ABOVE: dict[tuple[str, str], LabelValues] = {
    ("marrowlens_batches_total", "reason"): get_args(FlushReason),
    ("marrowlens_refusals_total", "reason"): tuple(dict.fromkeys(kind.name for _, kind in TABLE)),
}
_AND_MORE = {
    ("marrowlens_refusals_total", "reason"): "; else HTTP's own phrase, such as "
    f"`{HTTPStatus.NOT_FOUND.phrase.lower().replace(' ', '-')}`",
}


def metrics(
    out: Annotated[Path, typer.Option(help="Where to write it.")] = PAGE,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail when the file is stale.")] = False,
) -> None:
    """Write the page of all metrics. Needs no model."""
    text = page()
    if not check:
        out.write_text(text, encoding="utf-8")
    elif not out.exists() or out.read_text(encoding="utf-8") != text:
        typer.echo(f"marrowlens: {out} is stale; run `marrowlens metrics`", err=True)
        raise typer.Exit(_STALE)


def page() -> str:
    """The whole page."""
    parts = [_HEAD.format(at_nought=", ".join(_at_nought()))]
    for title, words, declared in sections():
        parts += [f"## {title}", *([words] if words else []), "\n".join((_TABLE_HEAD, *map(_row, declared)))]
    values = (row for _, _, declared in sections() for row in _value_rows(declared))
    parts += ["## Buckets", _buckets(), "## Values of the labels", _VALUES, "\n".join((_VALUES_HEAD, *values))]
    return "\n\n".join(parts) + "\n"


def sections() -> list[tuple[str, str, list[MetricSpec]]]:
    """Every metric that a service can have: heading, a sentence about them, and the metrics themselves."""
    from service.lis.metrics import LisMetrics  # and with it SQLAlchemy, which no other command needs

    own, laboratory = Metrics().registry.specs, MetricRegistry()
    LisMetrics(laboratory)
    drift = [metric for metric in own if metric.name.startswith("marrowlens_drift_")]
    return [
        ("The service", "", [metric for metric in own if metric not in drift]),
        ("Input drift", _DRIFT, drift),
        ("The laboratory", _LABORATORY, laboratory.specs),
        ("The process", _PROCESS, list(PROCESS)),
    ]


def values_of(metric: MetricSpec, label: str) -> LabelValues:
    """The values that a label of a metric may have: a closed set, or a sentence."""
    return _FROM_ABOVE.get((metric.name, label), metric.labels[label])


def _row(metric: MetricSpec) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.type} | {metric.unit} | {labels} | {metric.help} |"


def _value_rows(declared: Iterable[MetricSpec]) -> Iterator[str]:
    for metric in declared:
        for label in metric.labels:
            values = values_of(metric, label)
            said = values if isinstance(values, str) else ", ".join(f"`{value}`" for value in values)
            yield f"| `{metric.name}` | `{label}` | {said}{_AND_MORE.get((metric.name, label), '')} |"


def _at_nought() -> Iterator[str]:
    for metric in Metrics().registry.collect():
        for sample in metric.samples:
            if metric.type == "counter" and sample.labels:
                labels = ",".join(f'{label}="{value}"' for label, value in sample.labels.items())
                yield f"`{sample.name}{{{labels}}}`"


def _buckets() -> str:
    by_bounds: dict[tuple[float, ...], list[str]] = {}
    for _, _, declared in sections():
        for metric in declared:
            if metric.bounds:
                by_bounds.setdefault(metric.bounds, []).append(metric.name)
    return "\n\n".join(
        f"{', '.join(f'`{name}`' for name in names)}: {', '.join(f'{bound:g}' for bound in bounds)}, and all."
        for bounds, names in by_bounds.items()
    )
