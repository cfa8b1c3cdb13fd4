"""The screenshots of docs/page.md and README.md: the page with drawn cells and an invented patient, in Chromium.

python docs/pictures/page.py [FOLDER]        (from the repository root, in the environment of `make test`)
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = map(str, (ROOT / "tests/support").iterdir())

import httpx  # noqa: E402
from browser import chromium  # noqa: E402
from pictures import encoded  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import Page  # noqa: E402
from serving import Served, served  # noqa: E402

from service.runtime.artifact import bundled_artefact  # noqa: E402
from training.drawn.painter import paint  # noqa: E402

WHO = "Dr. A. Beispiel"
#: Number, patient, cells to count, and the classes of the drawn cells.
SPECIMENS = (
    ("BM-2026-0040", {"identifier": "100251", "family": "Probe", "given": "Karl", "sex": "M"}, 500, {}),
    ("BM-2026-0041", {"identifier": "100199", "family": "Beispiel", "given": "Hans", "sex": "M"}, 100, {"LYT": 14}),
    (
        "BM-2026-0042",
        {"identifier": "100234", "family": "Muster", "given": "Erika", "birth_date": "1964-08-12", "sex": "F"},
        60,
        {"NGS": 20, "EBO": 14, "MYB": 9, "LYT": 8, "PMO": 6, "BLA": 4, "EOS": 3, "MON": 3, "PLM": 2},
    ),
)


@contextmanager
def laboratory() -> Iterator[Served]:
    """A service with the bundled model and a laboratory of its own."""
    with TemporaryDirectory() as folder:
        settings = {"lis_database": f"sqlite:///{folder}/lab.db", "lis_pictures": f"{folder}/pictures"}
        settings["lis_comment_templates"] = str(ROOT / "examples" / "comment_templates.toml")
        with served(bundled_artefact(), **settings) as service:
            service.wait_listening()
            yield service


def fill(url: str) -> str:
    """Open the specimens and add their cells; the id of the last one."""
    specimen = ""
    with httpx.Client(base_url=url, headers={"X-Acting-User": "m.muster"}, timeout=120) as http:
        for number, patient, target, classes in SPECIMENS:
            body = {"number": number, "patient": patient, "target_cells": target}
            specimen = http.post("/specimens", json=body).raise_for_status().json()["id"]
            codes = [code for code, count in classes.items() for _ in range(count)]
            files = [("images", (f"{at}.png", _drawn(code, at))) for at, code in enumerate(codes)]
            if files:
                http.post(f"/specimens/{specimen}/cells", files=files).raise_for_status()
    return specimen


def _drawn(code: str, seed: int) -> bytes:
    return encoded(Image.fromarray(paint(code, seed).picture), "PNG")


def try_it(page: Page, url: str, folder: Path) -> None:
    """The example cells, then one cell with its evidence."""
    page.goto(url)
    page.click("#examples")
    page.wait_for_selector("#results[aria-busy=false]")
    page.mouse.move(0, 0)
    _save(page, folder / "page-cells.png")
    page.locator(".tile > button").nth(2).click()
    page.wait_for_selector('#detail-caption[data-map="evidence"]')
    _save(page, folder / "page-detail.png")


def model(page: Page, url: str, folder: Path) -> None:
    """The model in words."""
    page.goto(f"{url}/about")
    page.wait_for_selector("#model[aria-busy=false]")
    _save(page, folder / "page-model.png")


def case(page: Page, url: str, specimen: str, folder: Path) -> None:
    """The worklist, the review of a specimen, a cell beside reference cells, and the report before the signature."""
    page.evaluate("who => localStorage.setItem('acting-user', who)", WHO)
    page.goto(f"{url}/lab")
    page.wait_for_selector("#rows tr")
    _save(page, folder / "page-worklist.png")
    page.goto(f"{url}/lab/{specimen}")
    page.wait_for_selector("#review[aria-busy=false]")
    page.select_option("#reason", index=2)
    for tile in range(3):
        page.locator("#gallery .tile-body").nth(tile).click(modifiers=["Control"])
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".chip-read")
    page.locator("#gallery .tile-body").nth(3).click()
    page.evaluate("scrollTo(0, 0)")
    with httpx.Client(base_url=url, headers={"X-Acting-User": "m.muster"}) as other:
        other.put(f"/specimens/{specimen}/presence/{'1f' * 16}", json={"place": 60}).raise_for_status()
    page.wait_for_selector("#present:visible")
    _save(page, folder / "page-review.png")
    page.locator("#gallery .tile-body").nth(3).press("Enter")
    page.wait_for_selector('#detail-caption[data-map="evidence"]')
    page.wait_for_selector("#detail-references img")
    _save(page, folder / "page-reference.png")
    page.keyboard.press("Escape")
    page.goto(f"{url}/lab/{specimen}/report")
    page.wait_for_selector("#report[aria-busy=false]")
    page.select_option("#megakaryocyte_assessment-grade", "normal")
    page.select_option("#cellularity-grade", "normal")
    page.fill("#comment", "No blasts in excess.")
    _save(page, folder / "page-report.png")


def _save(page: Page, path: Path) -> None:
    page.wait_for_timeout(700)  # pictures are decoded
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(255, Image.Quantize.MEDIANCUT).save(path, optimize=True)


def main() -> None:
    """Draw every view."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    with laboratory() as service, chromium() as browser:
        specimen = fill(service.url)
        page = browser.new_page(viewport={"width": 1280, "height": 800}, locale="en-GB", color_scheme="light")
        try_it(page, service.url, folder)
        model(page, service.url, folder)
        case(page, service.url, specimen, folder)


if __name__ == "__main__":
    main()
