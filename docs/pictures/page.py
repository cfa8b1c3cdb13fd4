"""The screenshots of docs/page.md and README.md: the page with drawn cells, in Chromium.

python docs/pictures/page.py [FOLDER]        (from the repository root, in the environment of `make test`)
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))

from browser import chromium  # noqa: E402
from PIL import Image  # noqa: E402
from playwright.sync_api import Page  # noqa: E402
from serving import served  # noqa: E402

from service.runtime.artifact import bundled_artefact  # noqa: E402


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


def _save(page: Page, path: Path) -> None:
    page.wait_for_timeout(500)  # pictures fade in
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(255, Image.Quantize.MEDIANCUT).save(path, optimize=True)


def main() -> None:
    """Draw every view."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    with served(bundled_artefact()) as service, chromium() as browser:
        service.wait_listening()
        page = browser.new_page(viewport={"width": 1280, "height": 800}, locale="en-GB", color_scheme="light")
        try_it(page, service.url, folder)


if __name__ == "__main__":
    main()
