"""`marrowlens score --engine ray`: makes or resumes the plan, schedules its parts on actors, and retries failures."""

import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import Progress

from service.config.settings import Settings
from service.runtime.artifact import bundled_artefact, read_artefact
from service.runtime.loader import artefact_verifier, check_review_classes, in_force
from service.scoring.image_files import Skipped
from service.scoring.progress import PROBLEMS_SHOWN, print_problems, print_summary, progress_bar
from service.scoring.ray import output
from service.scoring.ray.actors import (
    ActorPool,
    TaskResult,
    actor_config,
    actor_resources,
    cluster_capacity,
    ray_cluster,
)
from service.scoring.ray.options import ClusterOptions, ScoreRequest
from service.scoring.ray.plan import Plan, load_or_create_plan
from service.scoring.ray.store import OutputFolder
from service.scoring.ray.worker import FailureKind, ScoredPart, TaskFailure
from service.scoring.tables import ScoringError

#: Attempts at a part before its failure ends the run.
MAX_ATTEMPTS = 3
#: Actors that may die over a part before it is given up; nodes also fail for other reasons.
MAX_DEATHS = 5
_POLL_S = 1.0
_COUNT_NODES_S = 5.0
_SHOW_WAITING_S = 15.0


def score_on_ray(request: ScoreRequest, cluster: ClusterOptions, settings: Settings, console: Console) -> int:
    """Score the parts of the plan that have no results; returns the number of problems in all parts.

    Raises:
        ScoringError: inputs, output, model or cluster cannot be used. Finished parts are kept.
        ArtefactError: the model cannot be read or verified.
    """
    artefact = settings.artefact or bundled_artefact()
    graph, manifest = read_artefact(artefact, artefact_verifier(settings))
    manifest = in_force(manifest, settings)
    check_review_classes(artefact, manifest, settings)
    out = OutputFolder(request.out)
    with console.status("listing the pictures"):
        plan = load_or_create_plan(request, out, manifest, settings)
        before = list(output.finished_parts(out, plan))
    repeated = f"; {plan.repeated} more have a duplicate key and are left out" if plan.repeated else ""
    console.print(f"{plan.pictures} pictures in {plan.parts} parts{repeated}", soft_wrap=True)
    scored_before = sum(part.pictures for part in before)
    first_problems: list[tuple[str, str]] = []
    began_s = time.monotonic()
    if scored_before < plan.pictures:
        with ray_cluster(cluster):
            resources = actor_resources(cluster, settings)
            config = actor_config(plan, out.address, artefact.name, graph, manifest, settings, resources.cpus)
            with ActorPool(config, resources) as pool:
                progress = progress_bar(console, plan.pictures, scored_before)
                scheduler = Scheduler(pool, plan, {part.number for part in before}, progress, cluster.actors)
                began_s = scheduler.run()
                first_problems = scheduler.first_problems
                if scheduler.lost_actors:
                    console.print(
                        f"{scheduler.lost_actors} actors were lost; others scored their parts", soft_wrap=True
                    )
    seconds = time.monotonic() - began_s
    problems = _check_complete(out, plan)
    print_problems(console, problems, first_problems, "the column `problem` has the reasons")
    now = plan.pictures - scored_before
    print_summary(console, out.address, plan.pictures, now, Skipped(plan.skipped), seconds if now else None)
    return problems


def _check_complete(out: OutputFolder, plan: Plan) -> int:
    """Check that every part has results, and write the summary; returns the number of problems."""
    parts = list(output.finished_parts(out, plan))
    if len(parts) != plan.parts:
        raise ScoringError(
            f"{out.address}: {plan.parts - len(parts)} of {plan.parts} parts are missing; run the same command again"
        )
    problems = sum(part.problems for part in parts)
    output.write_summary(out, plan, problems)
    return problems


@dataclass(slots=True)
class Scheduler:
    """Submits missing parts to actors, a bounded number at a time, and retries them until all are done or one fails."""

    pool: ActorPool
    plan: Plan
    done: set[int]
    progress: Progress
    actors: int | None
    first_problems: list[tuple[str, str]] = field(default_factory=list)
    lost_actors: int = 0
    _retries: deque[int] = field(default_factory=deque)
    _attempts: Counter[int] = field(default_factory=Counter)
    _deaths: Counter[int] = field(default_factory=Counter)
    _given_up: dict[int, str] = field(default_factory=dict)
    _failed_starts: int = 0
    _counted_s: float = float("-inf")
    _waiting_since_s: float = field(default_factory=time.monotonic)

    def run(self) -> float:
        """Score all parts; returns the `time.monotonic()` at which the first actor was ready.

        Raises:
            ScoringError: a part cannot be scored.
        """
        first_ready_s = None
        missing = (part for part in range(self.plan.parts) if part not in self.done)
        with self.progress:
            while True:
                self._add_actors()
                self._submit(missing)
                for result in self.pool.results(_POLL_S):
                    self._handle(result)
                    if first_ready_s is None and result.actor.provider:
                        first_ready_s = time.monotonic()
                if len(self.done) + len(self._given_up) == self.plan.parts:
                    break
                self._describe()
        if self._given_up:
            part, reason = next(iter(self._given_up.items()))
            raise ScoringError(
                f"{len(self._given_up)} parts are missing, such as {output.part_name(part)}: {MAX_DEATHS} actors died "
                f"over it ({reason}). Finished parts are kept; run the same command again, if needed with more memory"
            )
        return first_ready_s or time.monotonic()

    def _submit(self, missing: Iterator[int]) -> None:
        while (actor := self.pool.least_busy()) is not None:
            part = self._retries.popleft() if self._retries else next(missing, None)
            if part is None:
                return
            self.pool.submit(actor, part, last=self._attempts[part] + 1 == MAX_ATTEMPTS)

    def _add_actors(self) -> None:
        """Add actors up to the configured number, or as many as the cluster now has room for."""
        if time.monotonic() - self._counted_s < _COUNT_NODES_S:
            return
        self._counted_s = time.monotonic()
        # At most one per missing part; at least one, so that a cluster without nodes scales up.
        left = self.plan.parts - len(self.done) - len(self._given_up)
        wanted = self.actors or max(1, cluster_capacity(self.pool.resources))
        for _ in range(min(wanted, left) - len(self.pool.actors)):
            self.pool.add_actor()

    def _handle(self, result: TaskResult) -> None:
        outcome = result.outcome
        if isinstance(outcome, TaskFailure):
            self._handle_failure(result, outcome)
        elif isinstance(outcome, ScoredPart) and result.part is not None:
            self.done.add(result.part)
            self.first_problems += outcome.first_problems[: PROBLEMS_SHOWN - len(self.first_problems)]
            self.progress.advance(self.progress.task_ids[0], outcome.pictures)
        else:
            self._failed_starts = 0

    def _handle_failure(self, result: TaskResult, failure: TaskFailure) -> None:
        if failure.kind is not FailureKind.STORE or result.part is None:
            self.lost_actors += self.pool.kill(result.actor)  # its device may be the cause: retry on another actor
        part = result.part
        if part is None:
            self._failed_starts += 1
            if self._failed_starts >= MAX_ATTEMPTS and not self._any_started():
                raise ScoringError(f"no actor starts: {failure.reason}")
            return
        if failure.kind is FailureKind.ACTOR_DIED:
            self._deaths[part] += 1
            if self._deaths[part] == MAX_DEATHS:
                self._given_up[part] = failure.reason
                return
        else:
            self._attempts[part] += 1
            if self._attempts[part] == MAX_ATTEMPTS:
                raise ScoringError(f"{failure.reason}; finished parts are kept, run the same command again")
        self._retries.append(part)

    def _describe(self) -> None:
        """Show beside the progress bar that no node has room, if that lasts."""
        if self._any_started():
            self._waiting_since_s = time.monotonic()
            text = "scoring"
        elif time.monotonic() - self._waiting_since_s > _SHOW_WAITING_S:
            text = f"waiting for a node with {self.pool.resources} free"
        else:
            return
        self.progress.update(self.progress.task_ids[0], description=text)

    def _any_started(self) -> bool:
        return any(actor.provider for actor in self.pool.actors)
