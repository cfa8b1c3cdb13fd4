"""A failing model: waiting requests get a problem, readiness fails, and the process exits to be restarted."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from breaking import breaking_artefact
from PIL import Image
from serving import Served, served

Draw = Callable[..., bytes]
BROKEN = 70


def white() -> bytes:
    file = BytesIO()
    Image.new("RGB", (64, 64), "white").save(file, "PNG")
    return file.getvalue()


def ask(service: Served, picture: bytes) -> httpx.Response:
    return httpx.post(f"{service.url}/classify", files={"image": picture}, timeout=60)


@pytest.mark.slow
def test_a_model_that_hangs_costs_nobody_more_than_a_503_and_ends_the_process(tmp_path: Path, draw: Draw) -> None:
    artefact = breaking_artefact(tmp_path, "hangs")
    with served(artefact, max_run_s="0.5") as service, ThreadPoolExecutor(4) as others:
        service.wait_listening()
        assert ask(service, draw(1)).status_code == 200
        asked = [others.submit(ask, service, picture) for picture in (white(), draw(2), draw(3))]
        answers = [each.result() for each in asked]
        assert service.wait_ended() == BROKEN
    assert answers[0].status_code == 503
    assert answers[0].json()["type"].endswith(":not-ready")
    assert {answer.status_code for answer in answers} <= {200, 503}  # the others may have come before the white one
    assert any("CRITICAL" in line and "hangs" in line for line in service.lines)


@pytest.mark.parametrize("way", ["throws", "runs out of memory"])
def test_a_call_that_fails_costs_its_own_callers_a_500_and_the_next_one_is_answered(
    way: str, tmp_path: Path, draw: Draw
) -> None:
    with served(breaking_artefact(tmp_path, way)) as service:
        service.wait_listening()
        failed = ask(service, white())
        assert failed.status_code == 500
        assert failed.json()["type"].endswith(":internal-error")
        assert ask(service, draw(1)).status_code == 200
        assert httpx.get(f"{service.url}/health/ready").status_code == 200
        service.wait_said(failed.json()["request_id"])


def test_a_model_that_fails_time_after_time_ends_the_process(tmp_path: Path) -> None:
    with served(breaking_artefact(tmp_path, "throws"), max_failed_runs="2") as service:
        service.wait_listening()
        assert [ask(service, white()).status_code for _ in range(2)] == [500, 500]
        assert service.wait_ended() == BROKEN
