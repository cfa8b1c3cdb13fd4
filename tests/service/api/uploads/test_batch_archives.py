"""`POST /classify/batch` with damaged, truncated, joined or forged archives: no picture is lost silently."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkout import SHARED
from serving import client, refused, tarred, zipped
from starlette.testclient import TestClient
from tars import END, member, pax, record, sparse_by_gnu
from zips import Packed, archive

Draw = Callable[..., bytes]
CASES = SHARED / "cases" / "pictures"
BOTH = pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])


@pytest.fixture(scope="module")
def http(artefact: Path) -> Iterator[TestClient]:
    with client(artefact, max_image_bytes=100_000, max_body_bytes=2_000_000, max_batch_images=120) as started:
        yield started


def post(http: TestClient, kind: str, body: bytes, accept: str) -> object:
    headers = {"content-type": f"application/{kind}", "accept": accept}
    return http.post("/classify/batch?maps=none", content=body, headers=headers)


@BOTH
def test_a_tar_that_lost_pictures_says_how_many_were_read(http: TestClient, draw: Draw, accept: str) -> None:
    cells = [(f"{at}.png", draw(at)) for at in range(3)]
    whole = tarred(cells)
    second = whole.index(b"1.png")
    damaged = whole[: second + 100] + b"?" + whole[second + 101 :]
    for body, read in (
        (tarred(cells[:1]) + tarred(cells[1:]), 1),
        (damaged, 1),
        (whole[:second], 1),
        (whole[: second + 700], 1),
        (whole[: whole.index(b"2.png")], 2),
        (whole + b"x", 3),
    ):
        problem = refused(post(http, "x-tar", body, accept), 422, "malformed-body")
        assert f"pictures read before that: {read};" in problem.detail


@BOTH
def test_a_zip_that_lost_pictures_is_refused(http: TestClient, draw: Draw, accept: str) -> None:
    cells = [(f"{at}.png", draw(at)) for at in range(3)]
    whole = zipped(cells)
    hidden = archive(Packed(b"0.png", draw(0)), before=Packed(b"1.png", draw(1)).record())
    for body in (zipped(cells[:1]) + zipped(cells[1:]), whole[:-30], whole[: len(whole) // 2], whole + b"x", hidden):
        problem = refused(post(http, "zip", body, accept), 422, "malformed-body")
        assert "pictures read: 0" in problem.detail


def test_members_without_bytes_of_their_own_harm_no_neighbour(http: TestClient, draw: Draw) -> None:
    body = b"".join(
        [
            member("0.png", draw(0)),
            sparse_by_gnu(2),
            pax(record("GNU.sparse.major", "1")) + member("s.png", b"1\n0\n"),
            member("link.png", kind=b"2"),
            member("volume.png", draw(1), b"M"),
            member("1.png", draw(1)),
            END,
        ]
    )
    answer = http.post("/classify/batch?maps=none", content=body, headers={"content-type": "application/x-tar"})
    items = answer.json()["results"]
    assert [item["name"] for item in items if "result" in item] == ["0.png", "1.png"]
    reasons = [item["problem"]["detail"] for item in items if "problem" in item]
    assert len(reasons) == 4 and ["sparse" in reason for reason in reasons] == [True, True, False, True]


def test_a_git_archive_is_told_what_to_do(http: TestClient, draw: Draw) -> None:
    body = pax(record("comment", "1" * 40), kind=b"g") + member("0.png", draw(0)) + END
    problem = refused(post(http, "x-tar", body, "*/*"), 422, "malformed-body")
    assert "tar -cf" in (problem.detail or "")


@pytest.mark.skipif(not CASES.is_dir(), reason="no cases: the folder ../shared/cases/pictures is not there")
def test_cases_handed_over(http: TestClient) -> None:
    for name, read in (("two", 1), ("damaged_header", 1), ("cut_at_member", 2)):
        problem = refused(post(http, "x-tar", (CASES / f"{name}.tar").read_bytes(), "*/*"), 422, "malformed-body")
        assert f"pictures read before that: {read};" in (problem.detail or "")
    for name, expected in (
        ("zip64_small", ["a.jpg", "b.jpg"]),
        ("archiver64", ["ä/a.jpg"]),
        ("mac_utf8_noflag", ["Präparat_ü.jpg", "細胞.jpg"]),
    ):
        body = (CASES / f"{name}.zip").read_bytes()
        headers = {"content-type": "application/zip", "accept": "application/x-ndjson"}
        answer = http.post("/classify/batch?maps=none", content=body, headers=headers)
        *items, summary = [json.loads(line) for line in answer.text.splitlines()]
        assert [item["name"] for item in items] == expected and summary["problems"] == 0
