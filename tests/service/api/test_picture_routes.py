"""All picture formats over HTTP: the same answer in every format, or a problem that names the error."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from named_types import NAMED
from pictures import encoded, plain, png_file
from serving import client
from starlette.testclient import TestClient
from tiff_files import page, tiff_file
from transparent_pictures import NOTHING_TO_SEE

CELL = np.random.default_rng(11).integers(0, 16, (6, 5, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8) * 16
DEEP = CELL.astype(np.uint16) << 4
SAME = {
    "png": png_file(CELL),
    "png, interlaced": png_file(CELL, interlaced=True),
    "png of 12 bits": png_file(DEEP, before=[(b"sBIT", b"\x0c\x0c\x0c")]),
    "png with useless EXIF": png_file(CELL, before=[(b"eXIf", b"useless")]),
    "tiff": tiff_file(page(CELL)),
    "tiff of 12 bits": tiff_file(page(DEEP, tags={281: (4095,)})),
    "tiff of 12 bits in planes": tiff_file(page(DEEP, planar=True, tags={281: (4095,)})),
    "tiff, big-endian BigTIFF": tiff_file(page(CELL, order=">"), order=">", big=True),
}
REFUSED = {
    "12 bits, undeclared": (tiff_file(page(DEEP)), "the maximum is 3840 of 65535"),
    "a stack": (tiff_file(page(CELL, tags={270: "ImageJ=1.54f\nslices=9\n"})), "stack of 9 planes"),
    "a preview": (tiff_file(page(CELL, tags={254: 1})), "preview"),
    **{f"{name}, transparent": (data, "completely transparent") for name, data in NOTHING_TO_SEE.items()},
    **{name: case for name, case in NAMED.items() if "archive" not in case[1]},
}


@pytest.fixture(scope="module")
def http(artefact: Path) -> Iterator[TestClient]:
    with client(artefact) as started:
        yield started


def test_one_cell_has_one_answer_in_every_format(http: TestClient) -> None:
    answers = {}
    for name, data in SAME.items():
        answer = http.post("/classify", content=data, headers={"content-type": "image/*"})
        assert answer.status_code == 200, (name, answer.text)
        answers[name] = answer.json()["probabilities"]
    assert all(found == answers["png"] for found in answers.values())


def test_what_is_refused_says_why_alone_and_in_a_batch(http: TestClient) -> None:
    for name, (data, sentence) in REFUSED.items():
        found = http.post("/classify", content=data, headers={"content-type": "image/png"})
        assert (found.status_code, found.json()["type"]) == (415, "urn:problem-type:marrowlens:unsupported-picture"), (
            name
        )
        assert re.search(sentence, found.json()["detail"]), (name, found.json()["detail"])
    good = encoded(plain("RGB", (200, 100, 50)), "PNG")
    names = list(REFUSED)[:40]
    files = [("images", (f"{number}", data)) for number, name in enumerate(names) for data in (REFUSED[name][0], good)]
    items = http.post("/classify/batch", files=files).json()["results"]
    assert [item.get("problem", {"status": 200})["status"] for item in items] == [415, 200] * len(names)
