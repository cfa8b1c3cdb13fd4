"""Speed goals of the service, and whether the measurements reach them. A goal without measurements is unknown."""

from collections.abc import Callable
from dataclasses import dataclass

from bench.engines.names import FP32
from bench.plan.cells import Cell, Ledger
from bench.plan.plan import FEATHERWEIGHT, NETWORK, SATURATED
from bench.plan.servers import OURS, OURS_BF16, SERVERS
from bench.reporting.summary import (
    Spread,
    best_peer,
    by_round,
    engine_by_round,
    one_picture_ms,
    physical_limit,
    ratio,
    spread,
)

REFUSAL_MS = 50.0
#: Retry-After is whole seconds and a queue's length changes: true is what is neither half nor double the drain time.
TRUE_WITHIN = 2.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """One goal, its measured value, and whether it is reached; None: not measured."""

    goal: str
    measured: str
    reached: bool | None

    @property
    def word(self) -> str:
        return {True: "reached", False: "not reached", None: "not measured"}[self.reached]


def verdicts(ledger: Ledger, deadline_s: float) -> list[Verdict]:
    """All goals in the order of the report."""
    return [
        _right(ledger),
        _against_peers(ledger, NETWORK, SATURATED, _requests, 1.35, "32 clients: requests/s at least 1.35 x best peer"),
        _against_peers(
            ledger,
            NETWORK,
            SATURATED,
            _requests,
            1.8,
            "32 clients, bf16: requests/s at least 1.8 x best peer",
            ours=OURS_BF16,
        ),
        _p99(ledger),
        _lone(ledger),
        _batch(ledger),
        _against_peers(
            ledger,
            FEATHERWEIGHT,
            SATURATED,
            _requests,
            1.5,
            "one-operator model, 32 clients: requests/s at least 1.5 x best peer",
        ),
        _against_peers(
            ledger,
            FEATHERWEIGHT,
            "batch",
            _pictures,
            2.0,
            "one-operator model, 64 a request: pictures/s at least 2 x best peer",
        ),
        *_overload(ledger, NETWORK, deadline_s),
        *_overload(ledger, FEATHERWEIGHT, deadline_s),
        _engines(ledger),
    ]


def _right(ledger: Ledger) -> Verdict:
    checked, wrong = (sum(getattr(cell, name) for cell in ledger.cells) for name in ("checked", "wrong"))
    measured = f"{wrong} of {checked} pictures wrong"
    return Verdict("every answer of every server is the bare session's", measured, wrong == 0 if checked else None)


def _requests(cell: Cell) -> float:
    return cell.requests_per_s


def _pictures(cell: Cell) -> float:
    return cell.pictures_per_s


def _p99_ms(cell: Cell) -> float | None:
    return cell.p99_ms


def _at_least(goal: str, found: Spread | None, limit: float, words: str) -> Verdict:
    return Verdict(goal, f"{found} {words}" if found else "-", None if found is None else found.median >= limit)


def _at_most(goal: str, found: Spread | None, limit: float, words: str) -> Verdict:
    return Verdict(goal, f"{found} {words}" if found else "-", None if found is None else found.median <= limit)


def _against_peers(
    ledger: Ledger,
    model: str,
    workload: str,
    figure: Callable[[Cell], float | None],
    limit: float,
    goal: str,
    ours: str = OURS,
) -> Verdict:
    peer = best_peer(ledger, model, workload, figure)
    if peer is None:
        return Verdict(goal, "-", None)
    found, theirs = (by_round(ledger, model, server, workload, figure) for server in (ours, peer))
    return _at_least(goal, ratio(found, theirs), limit, f"x {SERVERS[peer].title}")


def _p99(ledger: Ledger) -> Verdict:
    goal = "32 clients: p99 no worse than the best peer's"
    peer = best_peer(ledger, NETWORK, SATURATED, _p99_ms, lowest=True)
    if peer is None:
        return Verdict(goal, "-", None)
    ours, theirs = (by_round(ledger, NETWORK, server, SATURATED, _p99_ms) for server in (OURS, peer))
    return _at_most(goal, ratio(ours, theirs), 1.0, f"x {SERVERS[peer].title}")


def _lone(ledger: Ledger) -> Verdict:
    ours = by_round(ledger, NETWORK, OURS, "one", lambda cell: cell.p50_ms)
    found = ratio(ours, one_picture_ms(ledger))
    return _at_most("1 client: at most 1.10 x decode and bare session.run", found, 1.10, "x, medians")


def _batch(ledger: Ledger) -> Verdict:
    found = ratio(by_round(ledger, NETWORK, OURS, "batch", _pictures), physical_limit(ledger))
    goal = "/classify/batch with 64: pictures/s at least 0.95 x bare session at its best batch with libjpeg-turbo"
    return _at_least(goal, found, 0.95, "x")


def _engines(ledger: Ledger) -> Verdict:
    found = ratio(engine_by_round(ledger, "onnxruntime"), engine_by_round(ledger, "openvino", [FP32]))
    goal = "onnxruntime's best CPU setting: pictures/s at least 1.0 x OpenVINO fp32"
    return _at_least(goal, found, 1.0, "x, each at its best batch")


def _overload(ledger: Ledger, model: str, deadline_s: float) -> list[Verdict]:
    title = f"overload x 3, {model}: "
    goodput = by_round(ledger, model, OURS, "overload", _requests)
    capacity = by_round(ledger, model, OURS, SATURATED, _requests)
    p99 = spread(list(by_round(ledger, model, OURS, "overload", _p99_ms).values()))
    refused = by_round(ledger, model, OURS, "overload", lambda c: c.refusals.p50_ms if c.refusals else None)
    judged = [
        _at_least(title + "goodput at least 0.90 of capacity", ratio(goodput, capacity), 0.90, "x"),
        _at_most(title + f"p99 of the accepted within {deadline_s:g} s", p99, 1000 * deadline_s, "ms"),
        _at_most(title + f"refusals' median below {REFUSAL_MS:g} ms", spread(list(refused.values())), REFUSAL_MS, "ms"),
        _retry_after(ledger, model, title),
    ]
    if not goodput:
        return judged
    return [v if v.reached is not None else Verdict(v.goal, "not one such answer", False) for v in judged]


def _retry_after(ledger: Ledger, model: str, title: str) -> Verdict:
    goal = title + "refusals are 429 with a true Retry-After"
    cells = [c for c in ledger.cells if (c.model, c.server, c.workload) == (model, OURS, "overload")]
    refusals = [cell.refusals for cell in cells if cell.refusals]
    if not refusals:
        return Verdict(goal, "-", None)
    all_429 = all(cell.statuses.get("429", 0) == cell.refusals.count for cell in cells if cell.refusals)
    all_with_header = all(found.with_retry_after == found.count for found in refusals)
    said = spread([found.retry_after_s for found in refusals if found.retry_after_s is not None])
    drain = spread([found.drain_s for found in refusals if found.drain_s is not None])
    if said is None or drain is None:
        return Verdict(goal, "no header", False)
    wanted = max(1.0, drain.median)  # the header knows no less than a second
    true = wanted / TRUE_WITHIN <= said.median <= wanted * TRUE_WITHIN
    measured = f"said {said.median:.0f} s, the accepted took {drain.median:.1f} s to drain"
    return Verdict(goal, measured if all_429 else measured + "; not all were 429", all_429 and all_with_header and true)
