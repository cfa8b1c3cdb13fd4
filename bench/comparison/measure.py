"""Measure one workload on a running server, compare every answer with the bare session's, and summarise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.plan.cells import Cell, Refusals
from bench.plan.plan import REQUEST_PICTURES, Plan, Workload
from bench.plan.servers import SAME_PRECISION, Answer, Server, Tolerance
from bench.traffic.load import Exchange, Observed, closed_loop, open_loop, poisson
from bench.traffic.wire import Address

REFUSED = (429, 503)  # a 504 is no refusal: the client has waited in vain
#: Of a closed loop for its last answers; on a machine that does nothing else it takes a second.
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures to send, and the bare session's answers to them."""

    jpegs: Sequence[bytes]
    probabilities: NDArray[np.float64]  # (N, C)
    attention: NDArray[np.float64]  # (N, K, h, w); (N, 0) without attention maps

    def wrong(self, first: int, answer: Answer, tolerance: Tolerance = SAME_PRECISION) -> int:
        """Number of wrong or missing pictures in an answer; `first` is the index of its first picture.

        An answer is wrong, too, if its first class is less probable than the right one by more than the margin.
        """
        probabilities, attention = answer
        at = np.arange(first, first + len(probabilities)) % len(self.jpegs)
        if probabilities.shape[1:] != self.probabilities.shape[1:] or attention.shape[1:] != self.attention.shape[1:]:
            return len(at)
        right = self.probabilities[at]
        same = np.isclose(probabilities, right, atol=tolerance.probability, rtol=0).all(axis=1)
        near = np.isclose(attention, self.attention[at], atol=tolerance.attention, rtol=0)
        same &= near.all(axis=tuple(range(1, near.ndim)))
        same &= right[np.arange(len(at)), probabilities.argmax(axis=1)] >= right.max(axis=1) - tolerance.margin
        return int((~same).sum())


@dataclass(frozen=True, slots=True)
class Subject:
    """A running server and its pictures."""

    server: Server
    address: Address
    pictures: Pictures
    model: str
    checked: bool = True  # false for what answers with nothing


class NoCapacity(Exception):
    """The server answered none of 32 clients in time, so its capacity is unknown."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} answered none of 32 clients in time")
        self.name = name


async def warm(subject: Subject, plan: Plan) -> None:
    """Send an unmeasured load after the start, to fill allocators and caches."""
    requests = [subject.server.one([jpeg]) for jpeg in subject.pictures.jpegs]
    await closed_loop(subject.address, requests, 32, plan.first_warm_s, 0.0, PATIENCE_S)


async def measure(subject: Subject, workload: Workload, plan: Plan, round: int, capacity_per_s: float) -> Cell:
    """Run one workload on a server and return its measurement.

    Args:
        capacity_per_s: requests a second answered to 32 clients; the rate of an open loop is a share of it.

    Raises:
        NoCapacity: an open loop needs the capacity, and it is unknown.
    """
    if workload.kind == "open" and capacity_per_s <= 0:
        raise NoCapacity(subject.server.name)
    batched = workload.kind == "batch" and subject.server.many is not None
    requests, pictures = _requests(subject, batched)
    offered = capacity_per_s * workload.load if workload.kind == "open" else None
    seen = await _load(subject.address, requests, workload, plan, round, offered, batched)
    checked, wrong = _checked(subject, seen, batched)
    return Cell(
        model=subject.model,
        server=subject.server.name,
        workload=workload.name,
        round=round,
        checked=checked,
        wrong=wrong,
        offered_per_s=offered,
        generator_share=seen.generator_share,
        **_figures(seen, workload, plan.deadline_s, pictures),
    )


def _requests(subject: Subject, batched: bool) -> tuple[list[bytes], int]:
    """Requests to send in turn, and the pictures of each."""
    jpegs = subject.pictures.jpegs
    if batched:
        assert subject.server.many is not None
        turns = -(-REQUEST_PICTURES // len(jpegs))
        return [subject.server.many((list(jpegs) * turns)[:REQUEST_PICTURES])], REQUEST_PICTURES
    return [subject.server.one([jpeg]) for jpeg in jpegs], 1


async def _load(
    address: Address,
    requests: Sequence[bytes],
    workload: Workload,
    plan: Plan,
    round: int,
    offered: float | None,
    batched: bool,
) -> Observed:
    if offered is None:
        clients = REQUEST_PICTURES if workload.kind == "batch" and not batched else workload.clients
        return await closed_loop(address, requests, clients, plan.warm_s, plan.seconds, PATIENCE_S)
    window_s = plan.window_s(workload, offered / workload.load)
    due_s = poisson(offered, window_s[1], seed=round)
    patience_s = 0 if workload.cut else plan.deadline_s
    return await open_loop(address, requests, due_s, plan.connections, window_s, patience_s)


def _checked(subject: Subject, seen: Observed, batched: bool) -> tuple[int, int]:
    """Number of pictures in answers with status 200, and how many of them are wrong."""
    if not subject.checked:
        return 0, 0
    read = subject.server.read_many if batched else subject.server.read
    expected = REQUEST_PICTURES if batched else 1
    assert read is not None
    answered = [e for e in seen.exchanges if e.reply is not None and e.reply.status == 200]
    wrong = 0
    for exchange in answered:
        assert exchange.reply is not None
        answer = read(exchange.reply.body)
        wrong += subject.pictures.wrong(exchange.index, answer, subject.server.tolerance) + abs(
            expected - len(answer[0])
        )
    return expected * len(answered), wrong


def _figures(seen: Observed, workload: Workload, deadline_s: float, pictures: int) -> dict[str, Any]:
    open_loop = workload.kind == "open"
    counted = [e for e in seen.exchanges if not open_loop or _counts(e, seen, workload)]
    answered = [e for e in counted if e.reply is not None and e.reply.status == 200]
    good = [e for e in answered if e.latency_s <= deadline_s]
    rate = len(good) / (seen.end - seen.begin) if open_loop else _closed_rate(answered)
    took_ms = 1000 * np.array([exchange.latency_s for exchange in answered])
    lags_ms = [1000 * (e.sent - e.due) for e in counted if e.sent is not None]
    return {
        "requests": len(counted),
        "statuses": _statuses(counted),
        "requests_per_s": rate,
        "pictures_per_s": rate * pictures,
        "late": len(answered) - len(good),
        "mean_ms": float(took_ms.mean()) if len(took_ms) else None,
        **{f"p{at}_ms": float(np.percentile(took_ms, at)) if len(took_ms) else None for at in (50, 90, 99)},
        "refusals": _refusals(seen, counted, rate),
        "lag_p99_ms": float(np.percentile(lags_ms, 99)) if open_loop and lags_ms else None,
    }


def _counts(exchange: Exchange, seen: Observed, workload: Workload) -> bool:
    """Whether an open-loop exchange is in the window: by scheduled time, or in an overload by its end."""
    if not workload.cut:
        return seen.begin <= exchange.due < seen.end
    moment = seen.end - 1e-9 if exchange.ended is None else exchange.ended
    return seen.begin <= moment < seen.end


def _closed_rate(answered: Sequence[Exchange]) -> float:
    """Requests a second: the sum over clients, each over its own time from its first to its last answer."""
    spans: dict[int, list[Exchange]] = {}
    for exchange in answered:
        spans.setdefault(exchange.client, []).append(exchange)
    rates = (len(own) / (max(e.due + e.latency_s for e in own) - min(e.due for e in own)) for own in spans.values())
    return float(sum(rates))


def _statuses(counted: Sequence[Exchange]) -> dict[str, int]:
    found: dict[str, int] = {}
    for exchange in counted:
        if exchange.reply is not None:
            status = str(exchange.reply.status)
        else:
            status = "open" if exchange.ended is None else "0"
        found[status] = found.get(status, 0) + 1
    return dict(sorted(found.items()))


def _refusals(seen: Observed, counted: Sequence[Exchange], goodput: float) -> Refusals | None:
    refused = [e for e in counted if e.reply is not None and e.reply.status in REFUSED]
    if not refused:
        return None
    took_ms = [1000 * exchange.latency_s for exchange in refused]
    waits = [_seconds(exchange) for exchange in refused]
    said = [wait for wait in waits if wait is not None]
    ahead = accepted_at(seen.exchanges, np.array([exchange.ended for exchange in refused], np.float64))
    return Refusals(
        count=len(refused),
        p50_ms=float(np.median(took_ms)),
        p99_ms=float(np.percentile(took_ms, 99)),
        with_retry_after=len(said),
        retry_after_s=float(np.median(said)) if said else None,
        drain_s=float(np.median(ahead)) / goodput if goodput else None,
    )


def _seconds(exchange: Exchange) -> int | None:
    """Seconds of Retry-After (RFC 9110, 10.2.3), if it is a positive whole number."""
    value = exchange.reply.retry_after if exchange.reply is not None else None
    return int(value) if value is not None and value.isdecimal() and int(value) > 0 else None


def accepted_at(exchanges: Sequence[Exchange], moments: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number of accepted, unanswered requests at each of these moments."""
    accepted = [e for e in exchanges if e.sent is not None and (e.reply is None or e.reply.status == 200)]
    sent = np.sort([e.sent for e in accepted if e.sent is not None])
    ended = np.sort([math.inf if e.ended is None else e.ended for e in accepted])
    inside: NDArray[np.int64] = np.searchsorted(sent, moments, "right") - np.searchsorted(ended, moments, "right")
    return inside
