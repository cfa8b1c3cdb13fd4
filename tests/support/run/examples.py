"""How many examples a property test draws: `make test` a quarter, `make test-slow` all, `make search` ten times all.

Only the search draws new ones. Otherwise the examples of a test are the same in every run, so a commit passes or fails
the same way everywhere.
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
