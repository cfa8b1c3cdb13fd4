"""One browser and one service for each file of tests. Playwright's loop must end before other files' coroutines run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import chromium
from playwright.sync_api import Browser
from serving import served


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, without a page."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def url(trusted_artefact: Path) -> Iterator[str]:
    """The address of a service with a model that knows drawn cells."""
    with served(trusted_artefact) as service:
        service.wait_listening()
        yield service.url
