"""How many examples a property test draws: `make test` a quarter, `make test-slow` all, `make search` ten times all.

Only the search draws new ones. Otherwise a fixed seed draws them, so that a commit passes or fails the same way
everywhere. What can still differ are constants that Hypothesis takes from modules, because tests load some on the way.
"""

import os

_RUN = os.environ.get("PROPERTY_TESTS", "quarter")
ALL = _RUN != "quarter"
SEARCHING = _RUN == "search"


def examples(full: int) -> int:
    """The number of examples of this run.

    Args:
        full: the number in `make test-slow`; Hypothesis' own default is 100.
    """
    return {"quarter": max(5, full // 4), "full": full, "search": 10 * full}[_RUN]
