"""`marrowlens-train figures`: every figure as PNG and SVG, and a report without external resources."""

import csv
import re
import shutil
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from folded import Folded
from PIL import Image
from playwright.sync_api import sync_playwright

from model.report.html import render
from model.report.page import EmbeddedImage, Page, Section, Table
from training.evaluation.scores import scores_of_run, write_evaluation
from training.run import RunFolder

OF_A_SOURCE = {"confusion", "classes", "reliability", "coverage", "gallery", "roc", "precision-recall"}
IMAGES = 11  # those of a source, overlays, two curves, responses
CHROMIUM = shutil.which("chromium")
DECODED = "Promise.all([...document.images].map(image => image.decode().then(() => image.naturalWidth)))"


class _Read(HTMLParser):
    """Tags with their attributes and the text of a page; fails if an element is not closed."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", list[str]()
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def drawn(folded: Folded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the figures of one fold."""
    out = tmp_path_factory.mktemp("figures")
    folded.made("figures", folded.runs[0], "--data", folded.data, "--out", out)
    return out


@pytest.fixture(scope="module")
def pooled(folded: Folded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the figures of both folds; the name of the source is no valid file name."""
    folder = tmp_path_factory.mktemp("pooled")
    shutil.copytree(folded.pooled, folder, dirs_exist_ok=True)
    config, run = folder / "config.toml", RunFolder(folder)
    config.write_text(config.read_text().replace('name = "drawn", folder', 'name = "a/b", folder'))
    evaluation, scores = run.evaluation(), scores_of_run(run, "test")
    renamed = evaluation.model_copy(update={"splits": {"a/b": evaluation.splits["drawn"]}})
    write_evaluation(run, renamed, {"test": replace(scores, sources=np.full(len(scores), "a/b"))})
    folded.made("figures", folder, "--data", folded.data)
    return folder / "figures"


def _names(folder: Path, suffix: str) -> set[str]:
    return {path.stem for path in folder.glob(f"*{suffix}")}


@pytest.mark.slow
def test_each_figure_lies_there_as_png_and_svg(drawn: Path) -> None:
    expected = {f"{name}-drawn" for name in (*OF_A_SOURCE, "overlays")} | {
        "curves-loss",
        "curves-accuracy",
        "responses",
    }
    assert _names(drawn, ".png") == _names(drawn, ".svg") == expected
    for path in drawn.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 250
    for path in drawn.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_pooled_folds_have_every_figure_that_needs_no_network(pooled: Path) -> None:
    assert _names(pooled, ".png") == {f"{name}-a%2Fb" for name in OF_A_SOURCE}
    text = _Read((pooled / "report.html").read_text(encoding="utf-8")).text
    assert "2 folds pooled, each picture tested once" in text
    assert "folds.csv lists the pooled runs" in text
    assert "fold 1 of 2" not in text
    assert "geometric mean" in text


def test_the_report_asks_for_nothing_outside_of_itself(drawn: Path) -> None:
    html = (drawn / "report.html").read_text(encoding="utf-8")
    page = _Read(html)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    addresses = [value or "" for _, found in page.tags for name, value in found.items() if name in ("src", "href")]
    assert len(page.of("img")) == IMAGES
    assert all(address.startswith(("data:image/", "#")) for address in addresses)
    styles = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert styles and not any(word in style for style in styles for word in ("url(", "@import", "http"))
    for image in page.of("img"):
        media_type, data = re.fullmatch(r"data:image/(png|svg\+xml);base64,(.*)", image["src"] or "").groups()
        if media_type == "png":
            Image.open(BytesIO(b64decode(data))).verify()
        else:
            root = ElementTree.fromstring(b64decode(data))
            linked = [value for part in root.iter() for name, value in part.attrib.items() if name.endswith("href")]
            assert all(value.startswith(("#", "data:")) for value in linked)
        assert len(image["alt"] or "") > 20


def test_links_lead_to_the_parts_of_the_report(drawn: Path) -> None:
    page = _Read((drawn / "report.html").read_text(encoding="utf-8"))
    there = {found["id"] for _, found in page.tags if "id" in found}
    assert {str(link["href"])[1:] for link in page.of("a")} == there
    assert [found["lang"] for found in page.of("html")] == ["en"]


def test_the_report_holds_every_figure_of_the_evaluation_and_its_n(folded: Folded, drawn: Path) -> None:
    evaluation, text = RunFolder(folded.runs[0]).evaluation(), _Read((drawn / "report.html").read_text("utf-8")).text
    for metric in evaluation.metrics:
        shown = "undefined" if not metric.n else f"{metric.value:.3f}"
        if metric.low is not None and metric.high is not None and metric.n:
            shown += f" ({metric.low:.3f}–{metric.high:.3f})"
        assert shown in text, metric
        assert re.search(rf"\b{metric.n}\b", text), metric
    assert "Research use only" in text
    assert "drawn by training/drawn/painter.py" in text


def test_what_was_shown_is_what_the_network_said(folded: Folded, drawn: Path) -> None:
    alt = next(
        str(i["alt"]) for i in _Read((drawn / "report.html").read_text("utf-8")).of("img") if "Gallery" in str(i)
    )
    with (folded.runs[0] / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    said = {f"{row['true']} predicted as {row['predicted']} ({float(row['probability']):.2f})" for row in rows}
    wrong = [row for row in rows if row["true"] != row["predicted"]]
    told = re.findall(r"\w+ predicted as \w+ \([\d.]+\)", alt)
    assert len(told) == min(len(wrong), 12)
    assert set(told) <= said


def test_what_cannot_be_drawn_is_said_in_one_line(folded: Folded, tmp_path: Path) -> None:
    assert "`marrowlens-train fit` writes it" in folded.refusal("figures", tmp_path, "--data", folded.data)
    shutil.copytree(folded.runs[0], tmp_path / "run", ignore=shutil.ignore_patterns("cache", "checkpoints"))
    (tmp_path / "run" / "evaluation.json").unlink()
    assert "`marrowlens-train evaluate` writes it" in folded.refusal("figures", tmp_path / "run")
    assert "no such folder" in folded.refusal("figures", folded.runs[0], "--data", tmp_path, "--out", tmp_path / "out")


def test_a_page_escapes_what_it_is_told() -> None:
    evil = "<script>alert(1)</script>&\"'"
    table = Table(evil, (evil, "n"), ((evil, "1"),), evil)
    image = EmbeddedImage(b"x", "image/png", evil, evil, small=True)
    page = _Read(render(Page(evil, evil, [(evil, evil)], [Section(evil, [evil], [table], [image])], evil)))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(evil) == 14
    assert page.of("img")[0]["alt"] == evil


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_every_picture_and_nothing_beside_the_page(drawn: Path, width: int) -> None:
    """Chromium decodes all images, asks for nothing but the file, and has nothing to scroll sideways or to complain."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        asked: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: asked.append(request.url.partition(":")[0]))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto((drawn / "report.html").as_uri(), wait_until="load")
        widths = page.evaluate(DECODED)
        sideways = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        headings = page.locator("h2").all_inner_texts()
        shot = page.screenshot(full_page=True)
        browser.close()
    assert len(widths) == IMAGES and min(widths) > 250
    assert sideways <= 0
    assert (asked.count("file"), set(asked) - {"file", "data"}, complaints) == (1, set(), [])
    assert any("fold 1 of 2" in heading for heading in headings)
    assert np.unique(np.asarray(Image.open(BytesIO(shot)).convert("L"))).size > 100  # the figures are drawn, not blank
