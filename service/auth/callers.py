"""Who calls, and what he may do. Knows nothing of how that was found out."""

from dataclasses import dataclass
from typing import Literal, get_args

from service.auth.identity import Identity

Scope = Literal["classify", "specimens", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, slots=True)
class Caller:
    """One who has shown a key or a token.

    Attributes:
        name: of the key, or of the token's person or subject; stands in the audit trail.
        identity: what the name was verified by; stands beside it.
        person: whether he may sign. A machine's key is none.
        acts_for_others: whether he is believed who `X-Acting-User` is.
        ends_at_s: until when the key or token holds, in Unix time; None: without end.
        rate_per_s, burst: his token bucket, in requests; a rate of 0 is no limit.
    """

    name: str
    identity: Identity
    scopes: frozenset[Scope]
    person: bool = False
    acts_for_others: bool = False
    ends_at_s: float | None = None
    rate_per_s: float = 0.0
    burst: int = 1
