"""The scheduler: attempts, retries and the end of a run, with actors that return what the test says."""

from collections import deque
from collections.abc import Callable, Iterator

import pytest
from rich.console import Console

from service.scoring.progress import progress_bar
from service.scoring.ray import driver
from service.scoring.ray.actors import PARTS_PER_ACTOR, ActorHandle, ActorResources, TaskResult
from service.scoring.ray.driver import MAX_ATTEMPTS, MAX_DEATHS, Scheduler
from service.scoring.ray.options import Duplicates
from service.scoring.ray.plan import Plan
from service.scoring.ray.worker import FailureKind, ScoredPart, TaskFailure
from service.scoring.tables import ScoringError

Does = Callable[[int, int], ScoredPart | TaskFailure]  # part, how often it was given before


class Actors:
    """The actors of a cluster with room for two. Calls end in the order in which they were made."""

    def __init__(self, does: Does, starts: Callable[[int], str | TaskFailure] = lambda _: "cpu") -> None:
        self.resources, self.actors = ActorResources(1, 0), list[ActorHandle]()
        self.given: list[tuple[int, bool]] = []
        self.most = 0
        self._does, self._starts = does, starts
        self._calls: deque[tuple[ActorHandle, int | None]] = deque()
        self._added = 0

    def least_busy(self) -> ActorHandle | None:
        free = [actor for actor in self.actors if actor.provider and actor.parts < PARTS_PER_ACTOR]
        return min(free, key=lambda actor: actor.parts, default=None)

    def add_actor(self) -> None:
        self.actors.append(actor := ActorHandle(None))
        self._calls.append((actor, None))

    def submit(self, actor: ActorHandle, part: int, *, last: bool) -> None:
        actor.parts += 1
        self.given.append((part, last))
        self._calls.append((actor, part))
        self.most = max(self.most, sum(part is not None for _, part in self._calls))

    def kill(self, actor: ActorHandle) -> bool:
        if actor not in self.actors:
            return False
        self.actors.remove(actor)
        return True

    def results(self, _timeout_s: float) -> Iterator[TaskResult]:
        if not self._calls:
            return
        actor, part = self._calls.popleft()
        if part is None:
            self._added += 1
            outcome = self._starts(self._added)
            actor.provider = outcome if isinstance(outcome, str) else ""
            yield TaskResult(actor, None, outcome)
            return
        actor.parts -= 1
        gone = actor not in self.actors
        before = [given for given, _ in self.given].count(part) - 1
        yield TaskResult(actor, part, TaskFailure(FailureKind.ACTOR_DIED, "gone") if gone else self._does(part, before))


@pytest.fixture(autouse=True)
def _a_cluster_for_two_that_is_counted_at_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "cluster_capacity", lambda _: 2)
    monkeypatch.setattr(driver, "_COUNT_NODES_S", 0.0)


def go(actors: Actors, parts: int = 12, done: set[int] | None = None) -> Scheduler:
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
    run = Scheduler(actors, plan, done or set(), progress_bar(Console(quiet=True), plan.pictures), None)  # type: ignore[arg-type]
    run.run()
    return run


def test_every_missing_part_is_given_once_and_few_at_a_time() -> None:
    actors = Actors(lambda _part, _before: ScoredPart(10))
    run = go(actors, parts=40, done={0, 7})
    assert [part for part, _ in actors.given] == [part for part in range(40) if part not in (0, 7)]
    assert actors.most == 2 * PARTS_PER_ACTOR and len(run.done) == 40


def test_what_an_actor_had_when_it_died_is_done_by_another() -> None:
    actors = Actors(
        lambda part, before: TaskFailure(FailureKind.ACTOR_DIED, "node") if part == 3 and not before else ScoredPart(10)
    )
    run = go(actors)
    assert run.done == set(range(12)) and run.lost_actors == 1
    again = {part for part, _ in actors.given if [given for given, _ in actors.given].count(part) > 1}
    assert 3 in again and len(again) <= PARTS_PER_ACTOR


def test_a_part_that_ends_every_actor_is_put_aside_and_the_others_are_done() -> None:
    actors = Actors(
        lambda part, _before: TaskFailure(FailureKind.ACTOR_DIED, "out of memory") if part == 3 else ScoredPart(10)
    )
    with pytest.raises(ScoringError, match=r"part-000003\.parquet: 5 actors died over it \(out of memory\)"):
        go(actors)
    assert [part for part, _ in actors.given].count(3) == MAX_DEATHS
    assert {part for part, _ in actors.given} == set(range(12))


@pytest.mark.parametrize("fault", [FailureKind.STORE, FailureKind.MODEL])
def test_a_part_that_fails_is_tried_again_and_its_last_time_it_is_told_so(fault: FailureKind) -> None:
    actors = Actors(
        lambda part, before: TaskFailure(fault, "why") if part == 3 and before < MAX_ATTEMPTS - 1 else ScoredPart(10)
    )
    assert go(actors).done == set(range(12))
    assert [last for part, last in actors.given if part == 3][-1] is True
    assert not any(last for part, last in actors.given if part == 0)
    with pytest.raises(ScoringError, match="why; finished parts are kept"):
        go(Actors(lambda _part, _before: TaskFailure(fault, "why")))


def test_actors_that_do_not_start_end_the_run_only_where_none_does() -> None:
    with pytest.raises(ScoringError, match="no actor starts: no CUDA"):
        go(Actors(lambda _part, _before: ScoredPart(10), lambda _number: TaskFailure(FailureKind.MODEL, "no CUDA")))
    mixed = Actors(
        lambda _part, _before: ScoredPart(10),
        lambda number: "cpu" if number == 2 else TaskFailure(FailureKind.MODEL, "no"),
    )
    assert go(mixed).done == set(range(12))
