"""A laboratory for tests of its pages: service, receiver, people in a browser."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from browser import Visit, visit
from conftest import Draw
from databases import free_port
from playwright.sync_api import Browser, Page
from receivers import Receiver, node_receiver
from serving import served

WHO = "Dr. A. Beispiel"
LOADED = "[aria-busy=false]"
TILE = "#gallery .tile"
TEMPLATES = """
[[template]]
name = "Counted"
text = "{counted} cells counted, {megakaryocytes} megakaryocytes."
[[template]]
name = "<b>Normal</b>"
text = "Normal marrow."
"""


@dataclass
class Lab:
    """A running service with a laboratory, a receiver of reports, and a client that acts as another person."""

    url: str
    order_port: int
    receiver: Receiver
    http: httpx.Client
    numbers: int = 0

    def specimen(self, pictures: list[bytes], **more: Any) -> str:
        """A new specimen with these cells; its id."""
        self.numbers += 1
        body = {"number": f"BM-{self.numbers}", "patient": {"identifier": f"P-{self.numbers}"}} | more
        answer = self.http.post("/specimens", json=body)
        assert answer.status_code == 201, answer.text
        specimen: str = answer.json()["id"]
        for at in range(0, len(pictures), 100):
            files = [("images", (f"{n}.png", data)) for n, data in enumerate(pictures[at : at + 100])]
            assert self.http.post(f"/specimens/{specimen}/cells", files=files).status_code == 200
        return specimen

    def cells(self, specimen: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.http.get(f"/specimens/{specimen}/cells?limit=1000").json()["cells"]
        return found

    def read(self, specimen: str, place: int, code: str) -> None:
        """Read a cell as another person."""
        [cell] = [each for each in self.cells(specimen) if each["place"] == place]
        reading = {"place": place, "version": cell["version"], "code": code, "why": "nucleoli"}
        assert self.http.post(f"/specimens/{specimen}/readings", json={"readings": [reading]}).status_code == 200

    def remove(self, specimen: str, place: int) -> None:
        """Remove a cell as another person."""
        body = {"revision": self.http.get(f"/specimens/{specimen}").json()["revision"], "reason": "another patient"}
        assert self.http.request("DELETE", f"/specimens/{specimen}/cells/{place}", json=body).status_code == 200


@contextmanager
def served_lab(artefact: Path, folder: Path) -> Iterator[Lab]:
    """A service with a laboratory in a folder, and a receiver that takes every report."""
    with node_receiver("simple-hl7-receiver.js", folder, "AA") as receiver:
        port = free_port()
        (folder / "templates.toml").write_text(TEMPLATES, encoding="utf-8")
        settings = {
            "lis_database": f"sqlite:///{folder / 'lab.db'}",
            "lis_pictures": str(folder / "pictures"),
            "lis_hl7_listen": f"127.0.0.1:{port}",
            "lis_hl7_to": f"127.0.0.1:{receiver.port}",
            "lis_target_cells": "1",
            "lis_comment_templates": str(folder / "templates.toml"),
        }
        with served(artefact, **settings) as service:
            service.wait_listening()
            with httpx.Client(base_url=service.url, headers={"X-Acting-User": "m.muster"}, timeout=60) as http:
                yield Lab(service.url, port, receiver, http)


@contextmanager
def at(browser: Browser, lab: Lab, path: str, who: str = WHO, **options: Any) -> Iterator[Visit]:
    """A page of the laboratory, seen by a person who has given a name."""
    with visit(browser, lab.url, **options) as visited:
        visited.page.evaluate("who => localStorage.setItem('acting-user', who)", who)
        visited.page.goto(f"{lab.url}/{path}")
        yield visited


def press_until_focused(page: Page, selector: str, key: str = "Tab") -> None:
    for _ in range(60):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{key} does not reach {selector}")


def key_of(page: Page, code: str) -> str:
    """The letter that gives cells this class, as the page shows it."""
    return page.inner_text(f'#palette [data-code="{code}"] kbd').lower()


def code_of(page: Page, at: int) -> str:
    return page.locator(f"{TILE} .tile-class .code").nth(at).inner_text().strip()


def pictures(draw: Draw, count: int, first: int = 0) -> list[bytes]:
    return [draw(first + at) for at in range(count)]


def chosen(members: list[bytes]) -> Any:
    return [{"name": f"{at}.png", "mimeType": "image/png", "buffer": data} for at, data in enumerate(members)]


def drop(page: Page, selector: str, data: bytes, name: str) -> None:
    """Drop a file from outside the browser."""
    script = """([selector, bytes, name]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], name));
        const options = {bubbles: true, cancelable: true, dataTransfer: transfer};
        document.querySelector(selector).dispatchEvent(new DragEvent("drop", options));
    }"""
    page.evaluate(script, [selector, list(data), name])
