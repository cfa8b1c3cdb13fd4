"""The page at `/` in a real browser: pictures in, classes, maps and the count out."""

import csv
import io
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from browser import visit, xss_texts
from keys import keys_file
from known import known_cells
from playwright.sync_api import Browser, Page, expect
from serving import served, zipped

from service.runtime.artifact import bundled_artefact
from service.web.pages import STATIC

DONE = "#results[aria-busy=false]"
ANSWERED = ".tile > button"
MODEL = "#model[aria-busy=false]"
FAILED = '.tile[data-decision="problem"]'
EXAMPLES = STATIC / "examples"

BROKEN = {
    "notes.txt": b"no picture",
    "empty.png": b"",
    "half.jpg": b"\xff\xd8\xff\xe0" + b"\0" * 300,
    "report.pdf": b"%PDF-1.7\n",
    "noise.png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
}


@pytest.fixture(scope="module")
def url(trusted_artefact: Path) -> Iterator[str]:
    """The address of a service with a model that knows drawn cells."""
    with served(trusted_artefact) as service:
        service.wait_listening()
        yield service.url


def choose(page: Page, files: dict[str, bytes]) -> None:
    """Choose files, and wait for the end of the run."""
    start(page, files)
    page.wait_for_selector(DONE)


def start(page: Page, files: dict[str, bytes]) -> None:
    named = [{"name": name, "mimeType": "application/octet-stream", "buffer": data} for name, data in files.items()]
    page.set_input_files("#files", named)  # type: ignore[arg-type]


@cache
def _sixty() -> list[bytes]:
    return known_cells(60)


def drawn(count: int) -> dict[str, bytes]:
    return {f"cell-{number}.png": data for number, data in enumerate(_sixty()[:count])}


def saved(page: Page, button: str) -> str:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_text(encoding="utf-8-sig")


def test_sixty_cells_are_answered_and_five_broken_files_say_why(browser: Browser, url: str) -> None:
    with visit(browser, url) as visited:
        page = visited.page
        expect(page.locator(".research-use")).to_contain_text("Research use only")
        choose(page, drawn(60) | BROKEN)
        expect(page.locator(ANSWERED)).to_have_count(60)
        expect(page.locator(FAILED)).to_have_count(5)
        expect(page.locator("#status")).to_have_text("65 pictures · 5 not classified")
        for name in BROKEN:
            tile = page.locator(FAILED, has_text=name)
            expect(tile.locator(".tile-problem")).not_to_be_empty()
        pictures = page.locator(f"{ANSWERED} img")
        assert pictures.first.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
        page.wait_for_function("document.getElementById('count-summary').textContent.includes('5 without a result')")
        rejected = page.locator('.tile[data-decision="reject"]').count()
        expect(page.locator("#count-rejected")).to_contain_text(str(rejected) if rejected else "")
        expect(page.locator("#count-rejected")).to_be_visible(visible=rejected > 0)
        rows = list(csv.DictReader(io.StringIO(saved(page, "#save-csv"))))
        document = json.loads(saved(page, "#save-json"))
    assert len(rows) == len(document["results"]) == 65
    assert [row["name"] for row in rows if row["problem"]] == list(BROKEN)
    assert [row["class"] for row in rows[:60]] == [
        each["result"]["prediction"]["code"] for each in document["results"][:60]
    ]
    assert sum(each["count"] for part in ("classes", "excluded") for each in document["differential"][part]) == 60


def test_a_zip_shows_its_members_with_their_pictures(browser: Browser, url: str) -> None:
    archive = zipped([*drawn(3).items(), ("notes.txt", b"no picture")])
    with visit(browser, url) as visited:
        choose(visited.page, {"cells.zip": archive, "damaged.zip": archive[: len(archive) // 2]})
        expect(visited.page.locator(f"{ANSWERED} img")).to_have_count(3)
        expect(visited.page.locator(FAILED, has_text="notes.txt")).to_have_count(1)
        expect(visited.page.locator(FAILED, has_text="damaged.zip")).to_have_count(1)
        visited.forget_refused_requests(422)


def test_pictures_are_dropped_and_pasted(browser: Browser, url: str) -> None:
    script = """([event, bytes]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], `${event}.png`, {type: "image/png"}));
        const options = {bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer};
        const fired = event === "drop" ? new DragEvent(event, options) : new ClipboardEvent(event, options);
        document.getElementById("drop").dispatchEvent(fired);
    }"""
    with visit(browser, url) as visited:
        for count, event in enumerate(("drop", "paste"), start=1):
            visited.page.evaluate(script, [event, list(drawn(1)["cell-0.png"])])
            expect(visited.page.locator(ANSWERED)).to_have_count(count)


@pytest.mark.slow
def test_a_run_is_cancelled_and_keeps_its_answers(browser: Browser, url: str) -> None:
    picture = min(EXAMPLES.glob("*.jpg"), key=lambda path: path.stat().st_size).read_bytes()
    with visit(browser, url) as visited:
        page = visited.page
        start(page, {f"{number}.jpg": picture for number in range(800)})
        page.wait_for_selector(ANSWERED)
        page.click("#cancel")
        page.wait_for_selector(DONE)
        answered, failed = page.locator(ANSWERED).count(), page.locator(FAILED).count()
        assert answered and failed and answered + failed == 800
        expect(page.locator(FAILED).last).to_contain_text("Cancelled")


@pytest.mark.slow
def test_filters_and_order_show_what_a_person_looks_for(browser: Browser, url: str) -> None:
    with visit(browser, url) as visited:
        page = visited.page
        choose(page, drawn(40) | BROKEN)
        page.check("#filter-decision input[value=problem]", force=True)
        expect(page.locator(".tile")).to_have_count(5)
        page.check("#filter-decision input[value=all]", force=True)
        code = page.locator("#filter-class option").nth(1).get_attribute("value")
        page.select_option("#filter-class", code)
        codes = page.locator(".tile-class .code").all_text_contents()
        assert {each.strip() for each in codes} == {code} and len(codes) < 40
        page.select_option("#filter-class", "")
        page.select_option("#sort", "uncertain")
        shares = page.locator(".tile .share .meter > span").evaluate_all(
            "all => all.map((one) => one.style.inlineSize)"
        )
        probabilities = [float(share.removesuffix("%")) for share in shares]
        assert probabilities == sorted(probabilities) and len(probabilities) == 40
        page.select_option("#filter-probability", "0.5")
        assert page.locator(ANSWERED).count() == sum(each < 50 for each in probabilities)


def _overlay_sum(page: Page) -> int:
    """The sum of the overlay's opacities; 0 if it is clear."""
    return page.evaluate(  # type: ignore[no-any-return]
        """() => {
            const canvas = document.getElementById("detail-overlay");
            const copy = new OffscreenCanvas(canvas.width, canvas.height);
            const context = copy.getContext("2d", {willReadFrequently: true});
            context.drawImage(canvas, 0, 0);
            const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
            let sum = 0;
            for (let at = 3; at < data.length; at += 4) sum += data[at];
            return sum;
        }"""
    )


def test_the_detail_view_shows_all_classes_and_maps(browser: Browser, url: str) -> None:
    with visit(browser, url) as visited:
        page = visited.page
        choose(page, drawn(3))
        page.locator(ANSWERED).first.click()
        page.wait_for_selector('#detail-caption[data-map="evidence"]')
        expect(page.locator("#detail-bars li")).to_have_count(21)
        assert _overlay_sum(page) > 0
        page.locator("#detail-bars button").nth(4).click()
        expect(page.locator("#detail-bars button").nth(4)).to_have_attribute("aria-pressed", "true")
        page.keyboard.press("2")
        page.wait_for_selector('#detail-caption[data-map="attention"]')
        assert _overlay_sum(page) > 0
        page.fill("#detail-opacity", "25")
        assert page.locator("#detail-overlay").evaluate("canvas => canvas.style.opacity") == "0.25"
        page.keyboard.press("0")
        page.wait_for_selector('#detail-caption[data-map="none"]')
        assert _overlay_sum(page) == 0


@pytest.mark.slow
def test_everything_is_done_with_the_keyboard(browser: Browser, url: str) -> None:
    with visit(browser, url) as visited:
        page = visited.page
        press_until_focused(page, "#examples")
        page.keyboard.press("Enter")
        page.wait_for_selector(DONE)
        expect(page.locator("#example-notice")).to_be_visible()
        press_until_focused(page, ".tile-body")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        name = page.evaluate("document.activeElement.lastElementChild.textContent.trim()")
        page.keyboard.press("Enter")
        expect(page.locator("#detail-name")).to_have_text(name)
        page.keyboard.press("ArrowRight")
        expect(page.locator("#detail-name")).not_to_have_text(name)
        after = page.locator("#detail-name").text_content()
        page.keyboard.press("Escape")
        expect(page.locator("#detail")).to_be_hidden()
        assert page.evaluate("document.activeElement.lastElementChild.textContent.trim()") == after
        press_until_focused(page, "#save-csv")
        page.keyboard.press("Shift+Tab")
        press_until_focused(page, "#clear", key="Shift+Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#results")).to_be_hidden()


def press_until_focused(page: Page, selector: str, key: str = "Tab") -> None:
    for _ in range(60):
        page.keyboard.press(key)
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    raise AssertionError(f"{key} does not reach {selector}")


def test_names_with_markup_appear_as_text(browser: Browser, url: str) -> None:
    picture = drawn(1)["cell-0.png"]
    names = [each.replace("/", "\u2044") for each in xss_texts()]  # a path ends a file name
    with visit(browser, url) as visited:
        page = visited.page
        choose(page, dict.fromkeys(names, picture) | {f"{name}.txt": b"x" for name in names})
        expect(page.locator(ANSWERED)).to_have_count(len(names))
        shown = page.locator(f"{FAILED} .tile-name").all_text_contents()
        assert shown == [f"{name}.txt" for name in names]
        page.locator(ANSWERED).first.click()
        for name in names:
            expect(page.locator("#detail-name")).to_have_text(name)
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Escape")
        page.mouse.move(400, 400)


def test_the_language_is_the_browsers_until_a_person_chooses(browser: Browser, url: str) -> None:
    with visit(browser, url, locale="de-AT") as visited:
        page = visited.page
        expect(page.locator("h1")).to_have_text("Knochenmarkzellen klassifizieren")
        choose(page, drawn(1))
        expect(page.locator("#status")).to_have_text("1 Bild")
        page.click("a[hreflang=en]")
        expect(page.locator("h1")).to_have_text("Classify bone-marrow cells")
        page.goto(url)
        expect(page.locator("html")).to_have_attribute("lang", "en")


def test_the_model_is_described_in_words(browser: Browser, url: str) -> None:
    with visit(browser, f"{url}/about") as visited:
        page = visited.page
        page.wait_for_selector(MODEL)
        model = page.request.get(f"{url}/model").json()
        expect(page.locator("h1")).to_contain_text(f"{model['name']} {model['version']}")
        expect(page.locator("#use")).to_have_text(model["intended_use"])
        expect(page.locator("#limits li")).to_have_text(model["limits"])
        expect(page.locator("#classes tr")).to_have_count(len(model["classes"]))
        expect(page.locator("#classes .is-unsupported")).to_have_count(len(model["unsupported"]))
        accuracy = [each for each in model["metrics"] if each["name"] == "accuracy" and each["code"] is None]
        expect(page.locator("#figures tr", has_text=re.compile("^Accuracy[0-9]"))).to_have_count(len(accuracy))


@pytest.mark.slow
def test_the_chart_has_room_for_the_longest_name(browser: Browser, url: str) -> None:
    with visit(browser, url, locale="de-DE") as visited:
        share = {"code": "NGS", "count": 1, "percent": 100, "low": 21, "high": 100, "supported": True}
        name, chart = visited.page.evaluate(
            """async (share) => {
              const { countChart } = await import("./static/page/count_chart.js");
              const chart = countChart({ classes: [share] });
              document.body.append(chart);
              return [chart.querySelector("text"), chart].map((each) => each.getBoundingClientRect().x);
            }""",
            share,
        )
        assert name >= chart


@pytest.mark.slow
def test_the_page_of_the_model_gives_changes_of_accuracy_in_points(browser: Browser) -> None:
    with served(bundled_artefact()) as service:
        service.wait_listening()
        with visit(browser, f"{service.url}/about") as visited:
            cells = visited.page.locator("#parts tr", has_text="MLKA").first.locator("td")
            expect(cells).to_have_text([re.compile(r"^\d+\.\d%$"), re.compile(r"^-\d+\.\d$"), re.compile(r"^\d+$")])


@pytest.mark.slow
def test_a_model_without_attention_shows_evidence(browser: Browser, inert_artefact: Path) -> None:
    with served(inert_artefact) as service:
        service.wait_listening()
        with visit(browser, service.url) as visited:
            choose(visited.page, drawn(1))
            visited.page.locator(ANSWERED).click()
            visited.page.wait_for_selector('#detail-caption[data-map="evidence"]')
            expect(visited.page.locator("#detail-maps input")).to_have_count(2)


@pytest.mark.slow
def test_without_a_key_the_page_says_so(browser: Browser, trusted_artefact: Path, tmp_path: Path) -> None:
    with served(trusted_artefact, keys_file=str(keys_file(tmp_path))) as service:
        service.wait_listening()
        with visit(browser, service.url) as visited:
            start(visited.page, drawn(1))
            visited.page.click("#session-dialog button[value=cancel]")  # the dialogue offers to sign in
            expect(visited.page.locator("#alert")).to_contain_text("Sign in first")
            expect(visited.page.locator(FAILED)).to_have_count(1)
            visited.forget_refused_requests(401)


@pytest.mark.slow
def test_a_service_that_has_gone_is_reported(browser: Browser, trusted_artefact: Path) -> None:
    with served(trusted_artefact) as service:
        service.wait_listening()
        with visit(browser, service.url) as visited:
            service.stop()
            choose(visited.page, drawn(1))
            expect(visited.page.locator("#alert")).to_contain_text("cannot be reached")
            visited.faults.clear()


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("light", 390), ("dark", 1280), ("dark", 390)])
def test_axe_finds_nothing_serious(browser: Browser, url: str, scheme: str, width: int) -> None:
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}, "bypass_csp": True}
    with visit(browser, url, **options) as visited:
        assert visited.serious_findings() == []
        choose(visited.page, drawn(6) | BROKEN)
        visited.page.locator("#count-details summary").click()
        assert visited.serious_findings() == []
        visited.page.locator(ANSWERED).first.click()
        visited.page.wait_for_selector('#detail-caption[data-map="evidence"]')
        assert visited.serious_findings() == []
        visited.page.goto(f"{url}/about")
        visited.page.wait_for_selector(MODEL)
        assert visited.serious_findings() == []
