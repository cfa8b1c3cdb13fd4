"""Content negotiation by the `Accept` header (RFC 9110, 12.5.1)."""

import pytest

from service.api.routes.batch import negotiate
from service.errors import NotAcceptable

JSON, LINES = "application/json", "application/x-ndjson"


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, JSON),
        ("", JSON),
        (" , ", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (JSON, JSON),
        (LINES, LINES),
        ("Application/X-NDJSON", LINES),
        ("application/x-ndjson; charset=utf-8", LINES),
        ("application/x-ndjson;q=1.000", LINES),
        ("application/x-ndjson;q=0", JSON),
        ("application/x-ndjson;q=0.0", JSON),
        ("application/x-ndjson; q=0.000 , */*", JSON),
        ("application/x-ndjson ;Q=0", JSON),
        ("application/x-ndjson, application/json", LINES),
        ("application/json, application/x-ndjson", LINES),
        ("application/json, application/x-ndjson;q=0.9", JSON),
        ("application/json;q=0.1, application/x-ndjson;q=0.2", LINES),
        ("application/json;q=0, application/x-ndjson", LINES),
        ("application/json;q=0, */*", LINES),
        ("application/json;q=0, */*;q=0.001", LINES),
        ("application/x-ndjson;q=0, application/*;q=0.5", JSON),
        ("*/*;q=0, application/x-ndjson", LINES),
        ("*/*;q=0, application/x-ndjson;q=0.1", LINES),
        ("application/json, text/plain, */*", JSON),
        ("application/x-ndjson, */*;q=0.1", LINES),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON),
        ("text/html", JSON),
        ("text/x-ndjson", JSON),
        ("application/x-ndjson-other", JSON),
        ("x/application/x-ndjson", JSON),
        ("application/x-ndjson;q=nan", LINES),
        ("application/x-ndjson;q=", LINES),
        ("application/json;q=0", LINES),
    ],
)
def test_the_form_that_is_preferred(accept: str | None, form: str) -> None:
    assert negotiate(accept, [JSON, LINES]) == form


@pytest.mark.parametrize(
    "accept", ["*/*;q=0", "application/*;q=0", f"{JSON};q=0, {LINES};q=0.0", f"{LINES};q=0, */*;q=0"]
)
def test_what_is_excluded_altogether(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="application/json, application/x-ndjson"):
        negotiate(accept, [JSON, LINES])


def test_one_form_alone() -> None:
    assert negotiate("application/json", [LINES]) == LINES
    with pytest.raises(NotAcceptable):
        negotiate("application/x-ndjson;q=0", [LINES])
