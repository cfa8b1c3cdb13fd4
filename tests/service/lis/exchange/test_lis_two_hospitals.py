"""Whatever two hospitals with the same numbers order, change, cancel and merge, and whatever people read and sign:
no value, name or cancellation reaches another patient or order, and the receiver has the last report that it took."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import manifest, use_cases
from two_hospitals import HOSPITALS, World

from examples import examples
from service.config.lis import LisSettings
from service.lis.domain.report import ReportContent
from service.lis.exchange.channels import receivers
from service.lis.exchange.code_map import CodeMap

number = st.integers(1, 2)
owner = st.tuples(st.sampled_from(HOSPITALS), number, number)
orders = st.tuples(
    st.just("order"), st.sampled_from(["NW", "NW", "XO", "CA", "DC", "RP"]), owner, number, st.booleans()
)
merges = st.tuples(st.just("merge"), st.sampled_from(HOSPITALS), st.sampled_from([(1, 2), (2, 1), (1, 3)]))
steps = st.sampled_from(
    ["add", "read", "count", "preliminary", "sign", "sign", "amend", "correct", "correct", "correct", "cancel"]
)
work = st.tuples(st.just("work"), steps, st.integers(0, 2), st.sampled_from(["PMO", "LYT", "ART", "ABE"]))
deliveries = st.tuples(st.just("deliver"), st.sampled_from([True, True, False]))


@settings(max_examples=examples(40), deadline=None)
@given(st.booleans(), st.lists(st.one_of(orders, work, work, work, deliveries, merges), min_size=5, max_size=30))
def test_two_hospitals_never_share_a_result(
    tmp_path_factory: pytest.TempPathFactory, artefact: Path, namespaces: bool, sequence: list[tuple[object, ...]]
) -> None:
    (receiver,) = receivers(LisSettings(hl7_to="127.0.0.1:1"), CodeMap.load(), None)
    folder, content = tmp_path_factory.mktemp("lab"), ReportContent()
    with use_cases(f"sqlite:///{folder}/lab.db", channels=[receiver.channel], content=content) as front:
        world = World(front, manifest(artefact), namespaces)
        for each in sequence:
            match each:
                case "order", str(action), (str(), int(), int()) as of, int(tube), bool(names_tube):
                    world.order(action, of, tube, names_tube=names_tube)
                case "merge", str(hospital), (int(gone), int(stays)):
                    world.merge(hospital, gone, stays)
                case "work", str(step), int(which), str(code):
                    world.work(step, which, code)
                case "deliver", bool(accepts):
                    world.deliver(accepts=accepts)
        while world.deliver(accepts=True):
            pass
        world.check()
