"""Figures of a comparison stay readable, however long the titles of its entries are."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from model.report.figure import style
from training.compare.plots import difference_figure
from training.compare.results import Difference, Estimate, Results, Row, TissueResult

TITLES = (
    "VAN-MLKA tiny",
    "short",
    "one kernel and VAN's attention: the value is the input of its gate, positions " * 2,
)


def _row(title: str, difference: float) -> Row:
    found = Estimate(value=0.6 + difference, low=0.5, high=0.7)
    measured = TissueResult(
        tissue="bone marrow",
        n=856,
        accuracy=found,
        macro_f1=found,
        accuracy_by_seed=(0.6,),
        macro_f1_by_seed=(0.6,),
        accuracy_difference=Difference(value=difference, low=difference - 0.03, high=difference + 0.03, p=0.5),
    )
    return Row(
        name=title[:5],
        title=title,
        group="",
        seeds=(1,),
        variant="tiny",
        input_size=96,
        parameters=None,
        multiply_adds=None,
        training_pictures=1,
        pictures_seen=1,
        train_minutes=1,
        on=(measured,),
    )


@pytest.mark.parametrize("titles", [TITLES, TITLES[::-1]])
def test_long_titles_leave_room_for_the_differences(titles: tuple[str, ...]) -> None:
    rows = tuple(_row(title, 0.01 * at) for at, title in enumerate(titles))
    results = Results(
        title="Parts",
        question="Which?",
        budget="",
        split="",
        block="calibration",
        device="",
        versions={},
        rows=rows,
        failures={},
    )
    figure = difference_figure(results, "differences").figure
    with style():
        FigureCanvasAgg(figure).draw()  # sets the layout
    (axes,) = figure.axes
    whole = figure.bbox
    assert axes.bbox.width > 0.5 * whole.width
    low, high = axes.get_xlim()
    ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
    groups = axes.get_yticklabels(), [label for tick, label in ticks if low <= tick <= high], [axes.xaxis.label]
    for texts in groups:
        extents = [text.get_window_extent() for text in texts]
        assert all(whole.x0 <= each.x0 and each.x1 <= whole.x1 for each in extents)
        assert all(whole.y0 <= each.y0 and each.y1 <= whole.y1 for each in extents)
        assert not any(one.overlaps(other) for at, one in enumerate(extents) for other in extents[at + 1 :])
