"""How often a part is tried, who is given it, and when a run ends, over actors that do as the test says."""

from collections import deque
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from service.scoring.progress import bar
from service.scoring.ray import driver as runs
from service.scoring.ray.actors import PARTS_EACH, Settled, Size, Worker
from service.scoring.ray.driver import ATTEMPTS, DEATHS, Run
from service.scoring.ray.errors import CannotScore
from service.scoring.ray.plan import Plan
from service.scoring.ray.request import Duplicates
from service.scoring.ray.worker import Done, Failed, Fault

Does = Callable[[int, int], Done | Failed]  # part, how often it was given before


class Actors:
    """Of one cluster with room for two. Each call is settled in the order in which it was made."""

    def __init__(self, does: Does, starts: Callable[[int], str | Failed] = lambda _: "cpu") -> None:
        self.size, self.workers = Size(1, 0), list[Worker]()
        self.given: list[tuple[int, bool]] = []
        self.most = 0
        self._does, self._starts = does, starts
        self._calls: deque[tuple[Worker, int | None]] = deque()
        self._added = 0

    def idlest(self) -> Worker | None:
        free = [worker for worker in self.workers if worker.provider and worker.parts < PARTS_EACH]
        return min(free, key=lambda worker: worker.parts, default=None)

    def add(self) -> None:
        self.workers.append(worker := Worker(None))
        self._calls.append((worker, None))

    def give(self, worker: Worker, part: int, *, last: bool) -> None:
        worker.parts += 1
        self.given.append((part, last))
        self._calls.append((worker, part))
        self.most = max(self.most, sum(part is not None for _, part in self._calls))

    def drop(self, worker: Worker) -> bool:
        if worker not in self.workers:
            return False
        self.workers.remove(worker)
        return True

    def settled(self, _timeout_s: float) -> Iterator[Settled]:
        if not self._calls:
            return
        worker, part = self._calls.popleft()
        if part is None:
            self._added += 1
            outcome = self._starts(self._added)
            worker.provider = outcome if isinstance(outcome, str) else ""
            yield Settled(worker, None, outcome)
            return
        worker.parts -= 1
        gone = worker not in self.workers
        before = [given for given, _ in self.given].count(part) - 1
        yield Settled(worker, part, Failed(Fault.DEATH, "gone") if gone else self._does(part, before))


@pytest.fixture(autouse=True)
def _a_cluster_for_two_that_is_counted_at_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "room_for", lambda _: 2)
    monkeypatch.setattr(runs, "_COUNT_NODES_S", 0.0)


def go(actors: Actors, parts: int = 12, done: set[int] | None = None) -> Run:
    plan = Plan(
        inputs=("x",),
        files_sha256="",
        key_column="key",
        image_column="image",
        duplicates=Duplicates.REFUSE,
        part_size=10,
        model_name="micro",
        model_version="1",
        model_sha256="",
        manifest_sha256="",
        max_image_bytes=1,
        max_pixels=1,
        pictures=parts * 10,
        repeated=0,
        parts=parts,
    )
    run = Run(actors, plan, done or set(), bar(Console(quiet=True), plan.pictures), None)  # type: ignore[arg-type]
    run.go()
    return run


def test_every_missing_part_is_given_once_and_few_at_a_time() -> None:
    actors = Actors(lambda _part, _before: Done(10))
    run = go(actors, parts=40, done={0, 7})
    assert [part for part, _ in actors.given] == [part for part in range(40) if part not in (0, 7)]
    assert actors.most == 2 * PARTS_EACH and len(run.done) == 40


def test_what_an_actor_had_when_it_died_is_done_by_another() -> None:
    actors = Actors(lambda part, before: Failed(Fault.DEATH, "node") if part == 3 and not before else Done(10))
    run = go(actors)
    assert run.done == set(range(12)) and run.lost == 1
    again = {part for part, _ in actors.given if [given for given, _ in actors.given].count(part) > 1}
    assert 3 in again and len(again) <= PARTS_EACH


def test_a_part_that_ends_every_actor_is_put_aside_and_the_others_are_done() -> None:
    actors = Actors(lambda part, _before: Failed(Fault.DEATH, "out of memory") if part == 3 else Done(10))
    with pytest.raises(CannotScore, match=r"part-000003\.parquet: 5 actors died over it \(out of memory\)"):
        go(actors)
    assert [part for part, _ in actors.given].count(3) == DEATHS
    assert {part for part, _ in actors.given} == set(range(12))


@pytest.mark.parametrize("fault", [Fault.STORE, Fault.MODEL])
def test_a_part_that_fails_is_tried_again_and_its_last_time_it_is_told_so(fault: Fault) -> None:
    actors = Actors(lambda part, before: Failed(fault, "why") if part == 3 and before < ATTEMPTS - 1 else Done(10))
    assert go(actors).done == set(range(12))
    assert [last for part, last in actors.given if part == 3][-1] is True
    assert not any(last for part, last in actors.given if part == 0)
    with pytest.raises(CannotScore, match="why; what was scored is kept"):
        go(Actors(lambda _part, _before: Failed(fault, "why")))


def test_actors_that_do_not_start_end_the_run_only_where_none_does() -> None:
    with pytest.raises(CannotScore, match="no actor starts: no CUDA"):
        go(Actors(lambda _part, _before: Done(10), lambda _number: Failed(Fault.MODEL, "no CUDA")))
    mixed = Actors(lambda _part, _before: Done(10), lambda number: "cpu" if number == 2 else Failed(Fault.MODEL, "no"))
    assert go(mixed).done == set(range(12))
