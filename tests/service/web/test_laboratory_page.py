"""The laboratory's pages in a real browser: a case from its order to a corrected report."""

import asyncio
import re
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import visit, xss_texts
from conftest import Draw
from lab_page import (
    LOADED,
    TILE,
    WHO,
    Lab,
    at,
    chosen,
    code_of,
    drop,
    key_of,
    pictures,
    press_until_focused,
    served_lab,
)
from laboratory import OBR, ORC, PID, SPM, order
from playwright.sync_api import Browser, CDPSession, Page, expect
from receivers import node_receiver
from serving import served
from signed_specimens import ordered, state, until


@pytest.fixture(scope="module")
def lab(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with served_lab(artefact, tmp_path_factory.mktemp("lab")) as started:
        yield started


def test_a_case_from_its_order_to_a_corrected_report(browser: Browser, lab: Lab, draw: Draw) -> None:
    lab.specimen(pictures(draw, 1, 7000))  # of another patient, with a picture of this case
    with ThreadPoolExecutor(1) as pool:  # Playwright's loop runs in this thread
        pool.submit(asyncio.run, ordered(lab.order_port, order(PID, SPM, ORC, OBR))).result(60)
    with visit(browser, f"{lab.url}/lab") as visited:
        page = visited.page
        page.fill("#person-name", WHO)
        page.keyboard.press("Enter")
        expect(page.locator("#rows tr", has_text="M26-0042")).to_contain_text("Muster, Erika")
        page.keyboard.type("M26-0042\n")  # the barcode reader, into the field that has the focus
        page.wait_for_selector(f"#review{LOADED}")
        expect(page.locator("h1")).to_have_text("Muster, Erika")
        _review_case(page, pictures(draw, 12, 7000))
        page.click(".tabs a:last-child")
        page.wait_for_selector(f"#report{LOADED}")
        _sign_case(page)
        [final] = lab.receiver.received()
        _amend_case(page)
        corrected = lab.receiver.received()[1]
    assert final["raw"].count("|F|") and "No blasts in excess." in final["raw"] and WHO.split()[-1] in final["raw"]
    assert "a blast was missed" in corrected["raw"]


def _review_case(page: Page, members: list[bytes]) -> None:
    page.set_input_files("#files", chosen(members))
    expect(page.locator(TILE)).to_have_count(12)
    expect(page.locator("#problems li")).to_contain_text("another patient's specimen")
    expect(page.locator(f"{TILE} img").first).to_have_js_property("complete", True)
    drop(page, "#drop", b"no picture", "notes.txt")
    expect(page.locator("#problems li")).to_contain_text("notes.txt")
    page.locator(f"{TILE} .tile-body").first.click()
    other = "BLA" if code_of(page, 0) != "BLA" else "PMO"
    page.keyboard.press(key_of(page, other))
    page.keyboard.press("2")  # a reason from the list; it holds for the next changes
    expect(page.locator(f"{TILE} .tile-class .code").first).to_have_text(other)
    page.locator(f"{TILE} .tile-body").nth(1).click()
    page.select_option("#give", other)
    expect(page.locator(f"{TILE} .tile-class .code").nth(1)).to_have_text(other)
    page.locator(TILE).nth(2).drag_to(page.locator(f'#palette [data-code="{other}"]'))
    expect(page.locator(f"{TILE} .tile-class .code").nth(2)).to_have_text(other)
    expect(page.locator("#filter-only [data-count=changed]")).to_have_text("3")
    page.click("#undo")
    expect(page.locator("#filter-only [data-count=changed]")).to_have_text("2")
    page.keyboard.press("Control+a")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#filter-only [data-count=unread]")).to_have_text("0")
    expect(page.locator("#target-words")).not_to_contain_text("wait")


def _sign_case(page: Page) -> None:
    page.fill("#megakaryocytes", "7")
    page.fill("#comment", "No blasts in excess.")
    expect(page.locator("#trail tr").first).to_contain_text("megakaryocytes")
    page.click("#preview")
    preview = page.locator("#preview-dialog")
    expect(preview).to_contain_text("No blasts in excess.")
    preview.locator("summary").click()
    expect(preview.locator("pre")).to_contain_text(re.compile(r"^MSH\|.*^PID\|.*Muster.*^OBX\|", re.M | re.S))
    page.click("#preview-close")
    page.click("#sign")
    expect(page.locator("#sign-state")).to_have_text("Signed.")
    expect(page.locator("#versions > li").first).to_contain_text("Delivered")
    expect(page.locator("#trail tr", has_text="Signed")).to_contain_text(WHO)
    expect(page.locator("#trail")).to_contain_text("Message: Delivered")
    page.emulate_media(media="print")
    for words in (WHO, "No blasts in excess.", "7"):
        expect(page.locator("#signed")).to_contain_text(words)
    expect(page.locator("#trail")).to_be_hidden()
    page.emulate_media(media="screen")


def _amend_case(page: Page) -> None:
    page.fill("#amend-reason", "a blast was missed")
    page.click("#amend-form button")
    expect(page.locator("#sign-state")).to_contain_text("a blast was missed")
    page.click(".tabs a:first-child")
    page.wait_for_selector(f"#review{LOADED}")
    page.select_option("#sort", "added")
    tile = page.locator(f"{TILE} .tile-body").last
    tile.click()
    now = code_of(page, page.locator(TILE).count() - 1)
    page.select_option("#reason", index=1)
    tile.focus()
    page.keyboard.press(key_of(page, "MYB" if now != "MYB" else "PMO"))
    expect(page.locator("#filter-only [data-count=changed]")).to_have_text("3")
    page.click(".tabs a:last-child")
    page.wait_for_selector(f"#report{LOADED}")
    expect(page.locator("#previous-title")).to_contain_text("Final, version 1")
    expect(page.locator("#previous-rows tr.is-changed").first).to_be_visible()
    page.click("#sign")
    expect(page.locator("#versions > li").first).to_contain_text("Corrected")
    expect(page.locator("#versions > li").first).to_contain_text("Delivered")


@pytest.mark.slow
def test_a_cell_is_compared_with_reference_cells_and_with_other_cells(browser: Browser, lab: Lab, draw: Draw) -> None:
    specimen = lab.specimen(pictures(draw, 3, 900))
    with at(browser, lab, f"lab/{specimen}") as visited:
        page = visited.page
        page.wait_for_selector(f"#review{LOADED}")
        suggested = code_of(page, 0)
        page.locator(f"{TILE} .tile-body").first.focus()
        page.keyboard.press("Enter")
        references = page.locator("#detail-references section")
        expect(references).to_have_count(2)
        expect(references.first).to_have_accessible_name(re.compile("suggested class"))
        expect(references.first).to_contain_text("Drawn, no photographs")
        expect(references.first.locator("img").first).to_have_js_property("naturalWidth", 112)
        for code, name in (("MYB", "Myelocyte"), ("EOS", "Eosinophil")):
            if code != suggested:
                page.click(f'#detail-bars [data-code="{code}"]')
                expect(references.last.locator("h3")).to_contain_text(name)
        page.keyboard.press("+")
        page.keyboard.press("+")
        enlarged = "({scrollWidth, clientWidth}) => scrollWidth / clientWidth"
        assert page.locator("#detail-layers").evaluate(enlarged) == pytest.approx(2, abs=0.05)
        position = page.inner_text("#detail-position")
        page.focus("#detail-layers")
        page.keyboard.press("ArrowRight")  # moves the picture
        expect(page.locator("#detail-position")).to_have_text(position)
        page.keyboard.press("Escape")
        expect(page.locator("#compare")).to_be_disabled()
        page.keyboard.press("Control+a")
        page.keyboard.press("=")
        expect(page.locator("#compare-cells li")).to_have_count(3)
        expect(page.locator("#compare-cells")).to_contain_text("Suggested:")
        page.keyboard.press("Escape")
        page.locator("#brightness").fill("140")
        assert "1.4" in page.evaluate("getComputedStyle(document.querySelector('.tile-picture img')).filter")
        decisions = [each.get("decision", "none") for each in lab.cells(specimen)]
        for decision in ("accept", "none"):
            page.select_option("#filter-decision", decision)
            expect(page.locator(TILE)).to_have_count(decisions.count(decision))


@pytest.mark.slow
def test_many_notices_are_counted_and_a_patient_without_a_name_has_one_number(
    browser: Browser, lab: Lab, draw: Draw
) -> None:
    shared = pictures(draw, 5, 950)
    lab.specimen(shared)
    specimen = lab.specimen([], patient={"identifier": "P-77"})
    with at(browser, lab, f"lab/{specimen}", locale="de-DE") as visited:
        page = visited.page
        page.wait_for_selector(f"#review{LOADED}")
        assert page.locator(".specimen").inner_text().count("P-77") == 1
        page.set_input_files("#files", chosen([*shared, b"no picture"]))
        kinds = page.locator("#problems details")
        expect(kinds).to_have_count(2)
        expect(kinds.first.locator("summary")).to_have_text("Bild auch in der Probe einer anderen Person: 5")
        expect(kinds.first.locator("li").first).to_be_hidden()
        kinds.first.locator("summary").click()
        expect(kinds.first.locator("li a")).to_have_count(5)
        expect(kinds.last.locator("li")).to_contain_text("5.png")  # a few are open
        page.click(".tabs a:last-child")
        page.wait_for_selector(f"#report{LOADED}")
        expect(page.locator("#ratios")).to_contain_text("(Granulopoese + Monozytär) / (Erythropoese)")


@pytest.mark.slow
def test_names_and_comments_with_markup_appear_as_text(browser: Browser, lab: Lab, draw: Draw) -> None:
    texts = xss_texts()
    patient = {"identifier": texts[0], "authority": texts[1], "family": texts[2], "given": texts[3]}
    specimen = lab.specimen(pictures(draw, 6, 200), number=texts[4], patient=patient, order={"placer_number": texts[5]})
    with at(browser, lab, "lab", who=texts[8]) as visited:
        page = visited.page
        row = page.locator("#rows tr", has_text=texts[4])
        for each in texts[:4]:
            expect(row).to_contain_text(each)
        row.locator("a").click()
        page.wait_for_selector(f"#review{LOADED}")
        page.locator(f"{TILE} .tile-body").first.click()
        page.keyboard.press(key_of(page, "BLA" if code_of(page, 0) != "BLA" else "PMO"))
        page.fill("#reason-own", texts[6])
        page.keyboard.press("Enter")
        expect(page.locator(TILE, has_text=f"✓ {texts[8]}")).to_have_count(1)  # stored: the page may be left
        page.goto(f"{lab.url}/lab/{specimen}/report")
        page.wait_for_selector(f"#report{LOADED}")
        expect(page.locator("#trail")).to_contain_text(texts[6])
        page.fill("#comment", texts[7])
        page.check("#accept_unread")
        page.click("#preview")
        for each in (texts[2], texts[5], texts[7], texts[8]):
            expect(page.locator("#preview-report")).to_contain_text(each)


def test_a_signature_says_what_is_missing(browser: Browser, lab: Lab, draw: Draw) -> None:
    specimen = lab.specimen(pictures(draw, 3, 300))
    with at(browser, lab, f"lab/{specimen}/report") as visited:
        page = visited.page
        page.wait_for_selector(f"#report{LOADED}")
        page.click("#sign")
        expect(page.locator("#alert")).to_contain_text("cannot be signed yet")
        page.evaluate("document.querySelector('#alert').hidden = true")
        lab.read(specimen, 1, lab.cells(specimen)[0]["code"])
        page.check("#accept_unread")
        page.click("#sign")  # of a state that has changed: shown, and not signed
        expect(page.locator("#alert")).to_contain_text("Someone has changed")
        expect(page.locator("#count-summary")).to_contain_text("1 of 3")
        page.click("#sign")
        expect(page.locator("#sign-state")).to_have_text("Signed.")
        visited.forget_refused_requests(409)


@pytest.mark.slow
def test_a_specimen_is_opened_by_hand(browser: Browser, lab: Lab) -> None:
    taken = lab.http.get("/specimens?limit=1").json()["specimens"] or [{"number": lab.specimen([]) and "BM-1"}]
    with at(browser, lab, "lab?state=all") as visited:
        page = visited.page
        page.wait_for_selector("#rows tr")
        page.keyboard.type("NEW-1\n")
        expect(page.locator("#open-form [name=number]")).to_have_value("NEW-1")
        page.fill("#open-form [name=number]", taken[0]["number"])
        page.fill("#open-form [name=identifier]", "P-9")
        page.fill("#open-form [name=birth_date]", "1964-08-12")
        birth, sex = (page.locator(f"#open-form [name={each}]").bounding_box() for each in ("birth_date", "sex"))
        assert birth is not None and sex is not None
        assert birth["x"] + birth["width"] <= sex["x"]
        page.click("#open-save")
        expect(page.locator("#open-alert")).to_contain_text("in use")
        page.fill("#open-form [name=number]", "NEW-1")
        page.click("#open-save")
        page.wait_for_selector(f"#review{LOADED}")
        expect(page.locator("#gallery-empty")).to_contain_text("Drop pictures here")
        page.goto(f"{lab.url}/lab")
        page.check("input[name=state][value=signed]", force=True)
        page.wait_for_url("**/lab?state=signed")
        expect(page.locator("#rows tr", has_text="NEW-1")).to_have_count(0)
        page.reload()
        expect(page.locator("input[value=signed]")).to_be_checked()
        visited.forget_refused_requests(409)


@pytest.mark.slow
def test_a_specimen_is_read_and_signed_with_the_keyboard(browser: Browser, lab: Lab, draw: Draw) -> None:
    lab.specimen(pictures(draw, 3, 400), number="KEYS-1")
    with at(browser, lab, "lab") as visited:
        page = visited.page
        page.wait_for_selector("#rows tr")
        page.keyboard.type("KEYS-1\n")
        page.wait_for_selector(f"#review{LOADED}")
        press_until_focused(page, ".tile-body")
        page.keyboard.press("Control+Enter")
        page.keyboard.press("Enter")  # the next cell, in the detail view
        page.wait_for_selector('#detail-caption[data-map="evidence"]')
        position = page.inner_text("#detail-position")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#detail-position")).not_to_have_text(position)
        page.keyboard.press("Control+Enter")
        page.keyboard.press("Escape")
        expect(page.locator("#filter-only [data-count=unread]")).to_have_text("0")
        press_until_focused(page, ".tabs a:last-child", "Shift+Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector(f"#report{LOADED}")
        press_until_focused(page, "#sign")
        page.keyboard.press("Enter")
        expect(page.locator("#sign-state")).to_have_text("Signed.")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", 1280),
        ("light", 390),
        ("dark", 1280),
        ("dark", 390),
    ],
)
def test_axe_finds_nothing_serious(browser: Browser, lab: Lab, draw: Draw, scheme: str, width: int) -> None:
    specimen = lab.specimen(pictures(draw, 5, 500))
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}, "bypass_csp": True}
    lab.http.put(f"/specimens/{specimen}/presence/{'1f' * 16}", json={"place": 1}).raise_for_status()
    with at(browser, lab, "lab", **options) as visited:
        page = visited.page
        page.wait_for_selector("#rows tr")
        assert visited.serious_findings() == []
        page.goto(f"{lab.url}/lab/{specimen}")
        page.wait_for_selector(f"#review{LOADED}")
        page.check("input[value=classes]", force=True)
        page.locator(f"{TILE} .tile-body").first.click()
        assert visited.serious_findings() == []
        page.keyboard.press("Enter")
        expect(page.locator("#detail-references img").first).to_be_attached()
        assert visited.serious_findings() == []
        page.keyboard.press("Escape")
        page.keyboard.press("Control+a")
        page.locator(f"{TILE} .tile-body").last.click(modifiers=["Control"])
        page.click("#compare")
        expect(page.locator("#compare-cells li")).to_have_count(4)
        assert visited.serious_findings() == []
        page.keyboard.press("Escape")
        page.locator(f"{TILE} .tile-body").first.click()
        page.keyboard.press(key_of(page, "BLA" if code_of(page, 0) != "BLA" else "PMO"))
        assert visited.serious_findings() == []
        page.keyboard.press("Escape")
        page.goto(f"{lab.url}/lab/{specimen}/report")
        page.wait_for_selector(f"#report{LOADED}")
        assert visited.serious_findings() == []
        page.check("#accept_unread")
        page.click("#preview")
        page.locator("#preview-dialog summary").click()
        assert visited.serious_findings() == []


@pytest.mark.slow
def test_500_cells_stay_smooth(browser: Browser, lab: Lab, draw: Draw) -> None:
    """A key costs the page at most 100 ms of CPU time more than on a specimen of eight cells."""
    few, many = lab.specimen(pictures(draw, 8, 600)), lab.specimen(pictures(draw, 500, 1000))
    assert _key_cost_ms(browser, lab, many) < _key_cost_ms(browser, lab, few) + 100


def _key_cost_ms(browser: Browser, lab: Lab, specimen: str) -> float:
    """The median CPU time of the page's main thread from a key to the frame that shows its class."""
    script = """key => new Promise((resolve) => {
        document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
        requestAnimationFrame(() => setTimeout(resolve));
    })"""
    with at(browser, lab, f"lab/{specimen}") as visited:
        page = visited.page
        page.wait_for_selector(f"#review{LOADED}")
        page.select_option("#reason", index=1)
        chromium = page.context.new_cdp_session(page)
        chromium.send("Performance.enable", {"timeDomain": "threadTicks"})
        costs = []
        for at_tile, code in enumerate(("BLA", "PMO") * 4):
            page.locator(f"{TILE} .tile-body").nth(at_tile).focus()
            before_s = _task_s(chromium)
            page.evaluate(script, key_of(page, code))
            costs.append(1000 * (_task_s(chromium) - before_s))
        expect(page.locator("#filter-only [data-count=changed]")).not_to_have_text("0")
    return statistics.median(costs)


def _task_s(chromium: CDPSession) -> float:
    """CPU time of all tasks of a page's main thread so far."""
    found = {metric["name"]: metric["value"] for metric in chromium.send("Performance.getMetrics")["metrics"]}
    return float(found["TaskDuration"])


@pytest.mark.slow
def test_added_cells_are_in_order_and_a_class_is_confirmed_only_where_it_is_seen(
    browser: Browser, lab: Lab, draw: Draw
) -> None:
    specimen = lab.specimen([])
    with at(browser, lab, f"lab/{specimen}") as visited:
        page = visited.page
        page.wait_for_selector(f"#review{LOADED}")
        page.set_input_files("#files", chosen(pictures(draw, 40, 30_000)))  # two requests
        expect(page.locator(TILE)).to_have_count(40)
        expect(page.locator("#selection")).to_have_text("0 cells selected")
        cells = sorted(
            lab.cells(specimen), key=lambda cell: (not cell["waits"], not _is_novel(cell), cell["probability"])
        )
        places = page.locator(TILE).evaluate_all("tiles => tiles.map(({dataset}) => Number(dataset.place))")
        assert places == [cell["place"] for cell in cells]
        decision, code = cells[0].get("decision", "none"), cells[0]["code"]
        page.select_option("#filter-decision", decision)
        page.check("input[value=classes]", force=True)
        seen = [cell["place"] for cell in cells if cell["code"] == code and cell.get("decision", "none") == decision]
        page.locator(f'#gallery section:has([data-place="{seen[0]}"]) button.small').click()
        if len(seen) > 1:
            page.click("#confirm-dialog button[value=save]")
        expect(page.locator("#filter-only [data-count=unread]")).to_have_text(str(40 - len(seen)))
        page.reload()
        page.wait_for_selector(f"#review{LOADED}")
    assert [cell["place"] for cell in lab.cells(specimen) if "read_by" in cell] == sorted(seen)


def _is_novel(cell: dict[str, Any]) -> bool:
    return any(reason["code"] == "novel" for reason in cell.get("reasons", []))


@pytest.mark.slow
def test_without_a_laboratory_the_page_says_so(browser: Browser, artefact: Path) -> None:
    with served(artefact) as service:
        service.wait_listening()
        with visit(browser, service.url) as visited:
            visited.page.goto(f"{service.url}/lab")
            expect(visited.page.locator("main")).to_contain_text("MARROWLENS_LIS_DATABASE")
            expect(visited.page.locator("dialog")).to_have_count(0)  # no name is asked for
            visited.page.get_by_role("link", name="Try it").last.click()
            expect(visited.page).to_have_url(f"{service.url}/")
            visited.forget_refused_requests(404)


@pytest.mark.slow
def test_a_report_that_did_not_arrive_is_sent_again_or_given_up(
    browser: Browser, artefact: Path, draw: Draw, tmp_path: Path
) -> None:
    with node_receiver("simple-hl7-receiver.js", tmp_path, "AE") as receiver:
        settings = {"lis_database": f"sqlite:///{tmp_path / 'lab.db'}", "lis_hl7_to": f"127.0.0.1:{receiver.port}"}
        with served(artefact, **settings, lis_target_cells="1") as service:
            service.wait_listening()
            with httpx.Client(base_url=service.url, headers={"X-Acting-User": WHO}, timeout=60) as http:
                rejecting = Lab(service.url, 0, receiver, http)
                specimen = rejecting.specimen(pictures(draw, 2, 800))
                signature = {"revision": 2, "accept_unread": True}
                assert http.post(f"/specimens/{specimen}/sign", json=signature).status_code == 200
                with at(browser, rejecting, f"lab/{specimen}/report") as visited:
                    page, message = visited.page, visited.page.locator("#versions li li")
                    expect(message).to_contain_text("Not delivered")
                    expect(message).to_contain_text("AE")
                    with page.expect_response("**/retry"):
                        message.get_by_text("Send again").click()
                    until(http, f"/specimens/{specimen}", lambda found: state(found) == ["dead"])
                    message.get_by_text("Give up").click()
                    page.fill("#drop-reason", "on paper")
                    page.keyboard.press("Enter")
                    expect(message).to_contain_text("Given up")
    assert len(receiver.received()) == 2
