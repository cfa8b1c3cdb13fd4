"""Drift in words on the page of the model."""

import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from browser import visit
from PIL import Image
from playwright.sync_api import Browser, expect
from serving import served

from service.runtime.artifact import bundled_artefact


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(bundled_artefact()) as service:
        service.wait_listening()
        yield service.url


def noise(seed: int) -> bytes:
    """A picture that is no cell."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.slow
def test_the_page_says_what_has_changed_and_what_to_do(browser: Browser, url: str) -> None:
    with visit(browser, f"{url}/about") as visited:
        words = visited.page.locator("#drift-words")
        expect(words).to_contain_text("0 pictures since the start. Drift is measured once there are 100 pictures.")
        expect(visited.page.locator("#drift-do")).to_be_hidden()
        files = [("images", (f"{n}.png", noise(n), "image/png")) for n in range(104)]
        httpx.post(f"{url}/classify/batch?maps=none", files=files, timeout=120).raise_for_status()
        visited.page.reload()
        expect(words).to_contain_text("The last 104 pictures")
        expect(words).to_contain_text("104 of 104 pictures were rejected since the start (100.0%). That is many")
        expect(words.locator(".warning")).not_to_have_count(1)  # the pictures differ too
        expect(visited.page.locator("#drift-do")).to_contain_text("Read every cell until the cause is known")
        visited.page.click("#mix summary")
        expect(visited.page.locator("#mix-rows tr").first).to_be_visible()
        visited.page.goto(f"{url}/about?language=de")
        expect(words).to_contain_text("104 von 104 Bildern wurden seit dem Start abgelehnt")
        expect(visited.page.locator("#limits li").first).to_contain_text("Gelernt aus")
        expect(visited.page.locator("#limits [lang=en]")).to_have_count(0)
        expect(visited.page.locator("#english")).to_contain_text("Englische Texte")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(browser: Browser, url: str, scheme: str) -> None:
    with visit(browser, f"{url}/about", bypass_csp=True, color_scheme=scheme) as visited:
        expect(visited.page.locator("#drift-words li").first).to_be_visible()
        assert visited.serious_findings() == []
