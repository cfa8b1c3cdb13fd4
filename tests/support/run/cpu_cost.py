"""What work costs in CPU time, as a multiple of a known piece of work, so that a limit holds on any machine."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager

#: 1 MB of JSON with 25,000 objects; reading it takes about 0.02 s.
KNOWN_WORK = b"[" + b",".join([b'{"place":1,"version":1,"code":"BLA"}'] * 25_000) + b"]"


@contextmanager
def costs_less_than(multiple: float) -> Iterator[None]:
    """Fail unless the block takes less CPU time than reading `KNOWN_WORK` so many times.

    The time is that of all threads of this process. The known work is measured before and after the block, and the
    slower of both counts: what shares the core may come and go.
    """
    before_s = _known_s()
    began_s = _used_s()
    yield
    taken_s = _used_s() - began_s
    allowed_s = multiple * max(before_s, _known_s())
    assert taken_s < allowed_s, f"{taken_s:.2f} s of CPU time; {allowed_s:.2f} s is allowed on this machine"


def _used_s() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def _known_s() -> float:
    began_s = _used_s()
    json.loads(KNOWN_WORK)
    return _used_s() - began_s
