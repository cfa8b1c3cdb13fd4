"""The documentation site: every page is in the navigation, every link and anchor leads somewhere, figures are current.

`make docs` builds the site itself and checks its HTML; these tests need no site generator.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import ROOT

SCRIPT = ROOT / "docs/build_site.py"


def site(*arguments: str | Path, script: Path = SCRIPT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _entries(nav: list[object]) -> Iterator[str]:
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, dict):
            for value in entry.values():
                yield from _entries(value if isinstance(value, list) else [value])


def test_every_page_is_in_the_navigation_once() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(_entries(nav)) == sorted(pages)


def test_every_link_of_every_page_leads_to_a_file_and_a_heading(tmp_path: Path) -> None:
    built = site("pages", tmp_path / "pages")
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "pages/access.md").read_text(encoding="utf-8")
    assert "](repository/service/auth/policy.py.md)" in page
    assert (tmp_path / "pages/repository/service/auth/policy.py.md").is_file()


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))]
)
def test_paths_and_modules_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    folders = "model|service|training|tests|docker|k8s|bench|stress|examples|docs"
    paths = re.findall(rf"(?<![\w/.-])((?:{folders})/[\w/.-]+(?:/|\.(?:py|toml|sh|csv|yaml|md)))(?![\w*])", text)
    paths += [name.replace(".", "/") for name in re.findall(r"python -m ((?:bench|stress|training)\.\w+)", text)]
    assert [path for path in paths if not ((ROOT / path).exists() or (ROOT / f"{path}.py").is_file())] == []


def test_panels_that_the_alert_guide_names_are_on_the_dashboard() -> None:
    dashboard = json.loads((ROOT / "k8s/observability/dashboard.json").read_text(encoding="utf-8"))
    titles = {panel["title"] for row in dashboard["panels"] for panel in [row, *row.get("panels", [])]}
    guide = (ROOT / "docs/observability.md").read_text(encoding="utf-8").replace('"Alerting on SLOs"', "")  # a chapter
    named = set(re.findall(r'"([A-Z][a-z ]+)"', guide))
    assert named
    assert {name for name in named if not any(title.startswith(name) for title in titles)} == set()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one page, index.md, that tests write, and the script that collects it."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/build_site.py").write_bytes(SCRIPT.read_bytes())
    (tmp_path / "docs/other.md").write_text("# Other\n\n## Two words\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[a](other.md) [b](other.md#two-words) [c](https://example.org/x)", ""),
        ("```\n[a](missing.md)\n```", ""),
        ("[a](missing.md)", "docs/index.md: missing.md leads to no file"),
        ("[a](other.md#three-words)", "docs/index.md: other.md#three-words leads to no heading of docs/other.md"),
        ("[a](../../etc/hosts)", "leads to no file of the repository"),
    ],
)
def test_a_broken_link_is_found(checkout: Path, text: str, wrong: str) -> None:
    (checkout / "docs/index.md").write_text(f"# Page\n\n{text}\n")
    built = site("pages", checkout / "out", script=checkout / "docs/build_site.py")
    assert (built.returncode != 0) == bool(wrong)
    assert wrong in built.stderr


@pytest.mark.parametrize(
    ("html", "wrong"),
    [
        ('<a href="b.html#there">b</a><a href="https://example.org">out</a>', ""),
        ('<a href="c.html">c</a>', "a.html: c.html leads to no file"),
        ('<a href="b.html#gone">b</a>', "a.html: b.html#gone leads to no anchor"),
        ('<script src="https://cdn.example.org/x.js"></script>', "a.html loads https://cdn.example.org/x.js"),
        ('<link rel="stylesheet" href="//fonts.example.org/x.css">', "a.html loads //fonts.example.org/x.css"),
    ],
)
def test_the_finished_site_is_checked(tmp_path: Path, html: str, wrong: str) -> None:
    (tmp_path / "a.html").write_text(html)
    (tmp_path / "b.html").write_text('<h2 id="there">There</h2>')
    checked = site("check", tmp_path)
    assert (checked.returncode != 0) == bool(wrong)
    assert wrong in checked.stderr


def test_the_figure_of_the_rooms_is_current(tmp_path: Path) -> None:
    script = ROOT / "docs/pictures/architecture.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, timeout=60)
    for name in ("rooms.svg", "picture-path.svg"):
        stored = (ROOT / "docs/pictures" / name).read_text(encoding="utf-8")
        assert (tmp_path / name).read_text(encoding="utf-8") == stored, f"stale: python {script.relative_to(ROOT)}"


def test_decisions_are_listed() -> None:
    listed = re.findall(r"^\| \[\d{4}\]\((.+?)\)", (ROOT / "docs/decisions/README.md").read_text(), re.MULTILINE)
    assert listed == sorted(path.name for path in (ROOT / "docs/decisions").glob("0*.md"))
