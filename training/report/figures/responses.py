"""Response curves: accuracy against the strength of each disturbance."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from model.report.figure import BLUE, GREEN, GREY, VERMILLION, ReportFigure, add_heading, new_figure, style
from training.run import MeasuredResponse


def responses_figure(responses: Sequence[MeasuredResponse]) -> ReportFigure:
    """One panel a disturbance: accuracy with its interval, the share accepted, and that of confidently wrong answers.

    Args:
        responses: the pictures as they are first.
    """
    as_is, *disturbed = responses
    kinds = list(dict.fromkeys(one.disturbance for one in disturbed))
    with style():
        figure = new_figure(2.2 * len(kinds), 2.9)
        add_heading(figure, f"calibration block, n = {as_is.n}")
        for axes, kind in zip(figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], kinds, strict=True):
            _panel(axes, as_is, [one for one in disturbed if one.disturbance == kind])
        figure.axes[0].set_ylabel("share of all pictures")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return ReportFigure("responses", figure, _caption(as_is), _described(as_is, disturbed, kinds))


def _panel(axes: Axes, as_is: MeasuredResponse, responses: Sequence[MeasuredResponse]) -> None:
    as_is_at = [as_is.model_copy(update={"strength": 1})] if responses[0].unit.startswith("×") else []
    ordered = sorted([*responses, *as_is_at], key=lambda one: one.strength)
    strengths = [one.strength for one in ordered]
    axes.axhline(as_is.accuracy, color=GREY, linewidth=1, linestyle="--", label="accuracy, as is")
    axes.fill_between(strengths, [one.low for one in ordered], [one.high for one in ordered], color=BLUE, alpha=0.15)
    axes.plot(strengths, [one.accuracy for one in ordered], "o-", color=BLUE, markersize=3, label="accuracy")
    if as_is.accepted is not None:
        accepted = [one.accepted or 0 for one in ordered]
        axes.plot(strengths, accepted, "^-.", color=GREEN, markersize=3, label="accepted")
    wrong = [one.confident_errors for one in ordered]
    axes.plot(strengths, wrong, "s:", color=VERMILLION, markersize=3, label="wrong with a probability above 0.9")
    axes.set(title=responses[0].disturbance, xlabel=responses[0].unit, ylim=(-0.02, 1.02))
    axes.grid(axis="y")


def _caption(as_is: MeasuredResponse) -> str:
    return (
        f"Response to disturbances, calibration block, n = {as_is.n}. Band: 95 % Wilson interval. Dashed: the pictures "
        "as they are."
    )


def _described(as_is: MeasuredResponse, disturbed: Sequence[MeasuredResponse], kinds: Sequence[str]) -> str:
    lowest = [
        min((one for one in disturbed if one.disturbance == kind), key=lambda one: one.accuracy) for kind in kinds
    ]
    texts = ", ".join(f"{one.accuracy:.3f} at {one.disturbance} {one.strength:g} {one.unit}" for one in lowest)
    return f"Line charts of accuracy by strength of a disturbance; {as_is.accuracy:.3f} as is. Lowest: {texts}."
