"""`marrowlens score --engine ray` from its start to its last word: plan, hand out parts, go on when actors die.

Knows the order of things, how often a part is tried and what a person is told. Knows no Ray
(`service.scoring.ray.actors`).
"""

import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from model.contract import RESEARCH_USE
from service.config.settings import Settings
from service.runtime.artifact import bundled_artefact, read_artefact
from service.runtime.loader import artefact_verifier
from service.scoring.image_files import Skipped
from service.scoring.progress import bar
from service.scoring.ray import output
from service.scoring.ray.actors import Pool, Settled, job, joined, room_for, size_of_an_actor
from service.scoring.ray.errors import CannotScore
from service.scoring.ray.plan import Plan, planned
from service.scoring.ray.request import Request, Sizing
from service.scoring.ray.store import Folder
from service.scoring.ray.worker import PROBLEMS_TOLD, Done, Failed, Fault

#: How often a part is tried before what stops it stops the run.
ATTEMPTS = 3
#: How often an actor may die over a part before the part is put aside; nodes go for reasons of their own.
DEATHS = 5
_LOOK_S = 1.0  # at most between two looks at the cluster
_COUNT_NODES_S = 5.0
_SAY_WAITING_S = 15.0


def score_on_ray(request: Request, sizing: Sizing, settings: Settings, console: Console) -> int:
    """Score what the plan has and the results have not; returns how many pictures of the whole run have problems.

    Raises:
        CannotScore: inputs, output, model or cluster cannot be used; what was scored until then is kept
        ArtefactError: the model cannot be read or verified
    """
    artefact = settings.artefact or bundled_artefact()
    graph, manifest = read_artefact(artefact, artefact_verifier(settings))
    out = Folder(request.out)
    with console.status("listing the pictures"):
        plan = planned(request, out, manifest, settings)
        before = list(output.finished(out, plan))
    _say_plan(plan, console)
    scored_before = sum(part.pictures for part in before)
    some: list[tuple[str, str]] = []
    began_s = time.monotonic()
    if scored_before < plan.pictures:
        with joined(sizing):
            size = size_of_an_actor(sizing, settings)
            with Pool(job(plan, out.address, artefact.name, graph, manifest, settings, size.cpus), size) as pool:
                progress = bar(console, plan.pictures, scored_before)
                run = Run(pool, plan, {part.number for part in before}, progress, sizing.actors)
                began_s = run.go()
                some = run.some
                if run.lost:
                    console.print(f"{run.lost} actors were lost on the way; others did their parts", soft_wrap=True)
    seconds = time.monotonic() - began_s
    problems = _check(out, plan)
    _report(problems, some, console)
    now = plan.pictures - scored_before
    rate = f" in {seconds:.1f} s" if now else ""
    console.print(f"{escape(out.address)}: {plan.pictures} pictures, {now} of them scored now{rate}", soft_wrap=True)
    if plan.skipped:
        console.print(escape(str(Skipped(plan.skipped))), soft_wrap=True)
    console.print(RESEARCH_USE, soft_wrap=True)
    return problems


def _say_plan(plan: Plan, console: Console) -> None:
    repeated = f"; {plan.repeated} more have a key that came before, and are left out" if plan.repeated else ""
    console.print(f"{plan.pictures} pictures in {plan.parts} parts{repeated}", soft_wrap=True)


def _check(out: Folder, plan: Plan) -> int:
    """Look once more that every part is there; returns the problems of all."""
    parts = list(output.finished(out, plan))
    if len(parts) != plan.parts:
        raise CannotScore(f"{out.address}: {len(parts)} of {plan.parts} parts are there; run the same command again")
    problems = sum(part.problems for part in parts)
    output.end(out, plan, problems)
    return problems


def _report(problems: int, some: list[tuple[str, str]], console: Console) -> None:
    if not problems:
        return
    console.print(f"{problems} could not be scored; their rows say why in the column problem", soft_wrap=True)
    for key, reason in some[:PROBLEMS_TOLD]:
        console.print(f"  {escape(key)}: {escape(reason)}", soft_wrap=True)
    if some and problems > len(some[:PROBLEMS_TOLD]):
        console.print(f"  … and {problems - len(some[:PROBLEMS_TOLD])} more")


@dataclass(slots=True)
class Run:
    """Hands out the parts that are missing, a bounded number at a time, until all are there or none can be made."""

    pool: Pool
    plan: Plan
    done: set[int]
    progress: Progress
    actors: int | None
    some: list[tuple[str, str]] = field(default_factory=list)
    lost: int = 0
    _again: deque[int] = field(default_factory=deque)
    _attempts: Counter[int] = field(default_factory=Counter)
    _deaths: Counter[int] = field(default_factory=Counter)
    _aside: dict[int, str] = field(default_factory=dict)
    _starts_failed: int = 0
    _counted_s: float = float("-inf")
    _waiting_since_s: float = field(default_factory=time.monotonic)

    def go(self) -> float:
        """Run; returns when the first actor was ready, on `time.monotonic`.

        Raises:
            CannotScore: a part cannot be made
        """
        first_ready_s = None
        missing = self._missing()
        with self.progress:
            while True:
                self._grow()
                self._hand_out(missing)
                for settled in self.pool.settled(_LOOK_S):
                    self._settle(settled)
                    if first_ready_s is None and settled.worker.provider:
                        first_ready_s = time.monotonic()
                if len(self.done) + len(self._aside) == self.plan.parts:
                    break
                self._say_waiting()
        if self._aside:
            part, reason = next(iter(self._aside.items()))
            raise CannotScore(
                f"{len(self._aside)} parts are missing, such as {output.name_of(part)}: {DEATHS} actors died over it "
                f"({reason}). The rest is there; run it again, with more memory if that is what they died of"
            )
        return first_ready_s or time.monotonic()

    def _missing(self) -> Iterator[int]:
        yield from (part for part in range(self.plan.parts) if part not in self.done)

    def _hand_out(self, missing: Iterator[int]) -> None:
        while (worker := self.pool.idlest()) is not None:
            part = self._again.popleft() if self._again else next(missing, None)
            if part is None:
                return
            self.pool.give(worker, part, last=self._attempts[part] + 1 == ATTEMPTS)

    def _grow(self) -> None:
        """As many actors as were asked for, or as there is room for: nodes come and go."""
        if time.monotonic() - self._counted_s < _COUNT_NODES_S:
            return
        self._counted_s = time.monotonic()
        # No more than there are parts left, and one at least: it makes a cluster grow that begins with no node.
        left = self.plan.parts - len(self.done) - len(self._aside)
        wanted = self.actors or max(1, room_for(self.pool.size))
        for _ in range(min(wanted, left) - len(self.pool.workers)):
            self.pool.add()

    def _settle(self, settled: Settled) -> None:
        outcome = settled.outcome
        if isinstance(outcome, Failed):
            self._failed(settled, outcome)
        elif isinstance(outcome, Done) and settled.part is not None:
            self.done.add(settled.part)
            self.some += outcome.some[: PROBLEMS_TOLD - len(self.some)]
            self.progress.advance(self.progress.task_ids[0], outcome.pictures)
        else:
            self._starts_failed = 0

    def _failed(self, settled: Settled, failed: Failed) -> None:
        if failed.fault is not Fault.STORE or settled.part is None:
            self.lost += self.pool.drop(settled.worker)  # a model may fail with its device: another actor tries
        if settled.part is None:
            self._starts_failed += 1
            if self._starts_failed >= ATTEMPTS and not self._any_started():
                raise CannotScore(f"no actor starts: {failed.reason}")
            return
        part = settled.part
        if failed.fault is Fault.DEATH:
            self._deaths[part] += 1
            if self._deaths[part] == DEATHS:
                self._aside[part] = failed.reason
                return
        else:
            self._attempts[part] += 1
            if self._attempts[part] == ATTEMPTS:
                raise CannotScore(f"{failed.reason}; what was scored is kept, run it again")
        self._again.append(part)

    def _say_waiting(self) -> None:
        if self._any_started():
            self._waiting_since_s = time.monotonic()
            self._describe("scoring")
        elif time.monotonic() - self._waiting_since_s > _SAY_WAITING_S:
            self._describe(f"waiting for a node with {self.pool.size} free")

    def _any_started(self) -> bool:
        return any(worker.provider for worker in self.pool.workers)

    def _describe(self, text: str) -> None:
        self.progress.update(self.progress.task_ids[0], description=text)
