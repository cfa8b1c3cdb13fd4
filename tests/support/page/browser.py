"""Chromium for the tests of the page. A visit records what must not happen: other hosts, policy violations, errors."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from checkout import PEERS
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright

AXE = PEERS / "node_modules" / "axe-core" / "axe.min.js"
SERIOUS = {"serious", "critical"}
TIMEOUT_MS = 30_000
#: Markup and code that people and programs put into names. `{}` is the code that must not run.
MARKUP = (
    "<script>{}</script>",
    "<img src=x onerror={}>",
    "<svg onload={}>",
    '"><b onmouseover={}>x</b>',
    "'-{}-'",
    "javascript:{}",
    "{{{{7*7}}}}${{{}}}",
    "&lt;i&gt;&#x3c;u&#x3e;",
    "</title></textarea></script><script>{}</script>",
    "\u202egnp.<script>{}</script>",
)
#: Sets a mark by which a test sees that a text was executed.
MARK = "window.executed=1"


def xss_texts() -> list[str]:
    """Texts that a careless page executes."""
    return [each.format(MARK) for each in MARKUP]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium, headless. Without one the test is skipped."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    arguments = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """One page in a browser context of its own."""

    page: Page
    faults: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def watch(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.faults.append(f"uncaught: {error}"))
        self.page.on("request", self._requested)
        self.page.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.type}: {message.text}")

    def _requested(self, request: Request) -> None:
        if (host := urlsplit(request.url).hostname) is not None:  # blob: and data: have none
            self.hosts.add(host)

    def forget_refused_requests(self, status: int) -> None:
        """Chromium writes each refused request to the console: of this status they are expected."""
        self.faults[:] = [each for each in self.faults if f"status of {status}" not in each]

    def check(self) -> None:
        """Assert that nothing but loopback was asked, no policy was violated and no text was executed."""
        assert self.page.evaluate("window.executed") is None
        assert self.hosts <= {"127.0.0.1"}
        assert self.faults == [], self.faults

    def serious_findings(self) -> list[Any]:
        """What axe finds in the page as it is now. Needs a context that bypasses the policy, to load axe."""
        self.page.add_script_tag(path=str(AXE))
        violations = self.page.evaluate("axe.run({resultTypes: ['violations']}).then(({violations}) => violations)")
        return [
            (each["id"], [node["html"][:200] for node in each["nodes"]], json.dumps(each["nodes"][0]["any"])[:300])
            for each in violations
            if each["impact"] in SERIOUS
        ]


@contextmanager
def visit(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """A page of the service in a context of its own, checked at the end."""
    options = {"locale": "en-GB", "viewport": {"width": 1280, "height": 800}} | options
    context: BrowserContext = browser.new_context(**options)
    context.set_default_timeout(TIMEOUT_MS)
    visited = Visit(context.new_page())
    visited.watch()
    try:
        visited.page.goto(url)
        yield visited
        visited.check()
    finally:
        context.close()
