"""What every test may ask for: an artefact, drawn pictures, and an environment free of this machine's own settings."""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from databases import Postgres, postgres
from graphs import add_trust, mark_inert, store_probes, write_artefact
from hypothesis import settings as hypothesis_settings
from known import known_cells
from PIL import Image

from examples import SEARCHING, examples
from model.image import decode

if TYPE_CHECKING:
    from folded import Folded
    from issuer import Issuer
    from playwright.sync_api import Browser

# Networks of tests are so small that a second thread of torch only waits for the first: on a core that others use too,
# a step of microseconds took a second. Read when torch is imported, which nothing above does.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Disable onnxruntime's telemetry in tests; the service disables it itself.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# No deadline for examples: a loaded machine must not fail a property test.
hypothesis_settings.register_profile(
    "marrowlens", deadline=None, max_examples=examples(100), derandomize=not SEARCHING, print_blob=True
)
hypothesis_settings.load_profile("marrowlens")

Draw = Callable[..., bytes]


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_this_machine() -> None:
    for name in [name for name in os.environ if name.upper().startswith("MARROWLENS_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `.onnx` of a tiny artefact with 21 classes at 64 pixels; its manifest lies beside it. Do not write to it."""
    return write_artefact(tmp_path_factory.mktemp("artefact"))


@pytest.fixture(scope="session")
def inert_artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network without attention maps, whose manifest names two inert parts. Do not write to it."""
    path = write_artefact(tmp_path_factory.mktemp("inert"), attention=False)
    store_probes(path)
    mark_inert(path, "MLKA", "cross-scale attention")
    return path


@pytest.fixture(scope="session")
def trusted_artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with a trust reference of 120 drawn cells (`known_cells`). Do not write to it."""
    path = write_artefact(tmp_path_factory.mktemp("trusted"))
    add_trust(path, np.stack([decode(data, 64) for data in known_cells(120)]))
    return path


@pytest.fixture(scope="session")
def folded(tmp_path_factory: pytest.TempPathFactory) -> "Folded":
    """Two folds of drawn cells, evaluated and pooled. Do not write to them."""
    from folded import Folded  # imports torch

    return Folded(tmp_path_factory.mktemp("folded"))


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Chromium, without a page. It ends with the file, because its event loop disturbs coroutines of other files."""
    from browser import chromium  # imports Playwright

    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def issuing() -> "Iterator[Issuer]":
    """An OpenID Connect issuer on loopback."""
    from issuer import issuer  # imports what signs tokens

    with issuer() as started:
        yield started


@pytest.fixture(scope="session")
def draw() -> Draw:
    """A picture as bytes: `draw(seed, size=(80, 72), format="PNG")`; another seed is another picture."""

    def picture(seed: int, *, size: tuple[int, int] = (80, 72), format: str = "PNG") -> bytes:
        width, height = size
        random = np.random.default_rng(seed)
        shade = random.integers(0, 192, 3)  # one colour a picture, so that answers differ between pictures
        coarse = Image.fromarray((shade + random.integers(0, 64, (6, 6, 3))).astype(np.uint8))
        out = io.BytesIO()
        coarse.resize((width, height), Image.Resampling.BILINEAR).save(out, format)
        return out.getvalue()

    return picture


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL server for this process; every test takes a database of its own."""
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database: what holds on one kind holds on the other."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'lab.db'}"
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.new_database()
