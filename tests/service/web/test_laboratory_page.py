"""The laboratory's pages in a real browser: a case from its order to a corrected report."""

import asyncio
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import Visit, visit, xss_texts
from conftest import Draw
from databases import free_port
from laboratory import OBR, ORC, PID, SPM, order
from playwright.sync_api import Browser, Locator, Page, expect
from receivers import Receiver, node_receiver
from serving import served
from signed_specimens import ordered, state, until

WHO = "Dr. A. Beispiel"
LOADED = "[aria-busy=false]"
TILE = "#gallery .tile"


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


@pytest.fixture(scope="module")
def lab(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    with node_receiver("simple-hl7-receiver.js", folder, "AA") as receiver:
        port = free_port()
        settings = {
            "lis_database": f"sqlite:///{folder / 'lab.db'}",
            "lis_pictures": str(folder / "pictures"),
            "lis_hl7_listen": f"127.0.0.1:{port}",
            "lis_hl7_to": f"127.0.0.1:{receiver.port}",
            "lis_target_cells": "1",
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


def test_a_case_from_its_order_to_a_corrected_report(browser: Browser, lab: Lab, draw: Draw) -> None:
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
    expect(page.locator("#changes-rows tr")).to_have_count(2)
    page.click("#sign")
    expect(page.locator("#versions > li").first).to_contain_text("Corrected")
    expect(page.locator("#versions > li").first).to_contain_text("Delivered")


def test_two_people_read_one_specimen_and_nobody_overwrites(browser: Browser, lab: Lab, draw: Draw) -> None:
    specimen = lab.specimen(pictures(draw, 4, 100))
    mine, theirs = _other_codes(lab, specimen)
    with at(browser, lab, f"lab/{specimen}") as visited:
        page = visited.page
        _stop_clock(page)  # the page does not see the other person's readings before the own ones are sent
        page.select_option("#sort", "added")
        page.select_option("#reason", index=1)
        for place in (1, 2, 4):
            lab.read(specimen, place, theirs)
        _select(page, 1, 2, 3)  # cells 1 and 2 are read by both, cell 3 by one
        page.keyboard.press(key_of(page, mine))
        rows = page.locator("#merge-list li")
        expect(rows).to_have_count(2)
        expect(rows.first).to_contain_text("read by m.muster")
        rows.first.locator("input[value=own]").check()
        rows.last.locator("input[value=other]").check()
        page.click("#merge-dialog button")
        for place, code in ((1, mine), (2, theirs), (3, mine)):
            expect(_tile(page, place).locator(".tile-class .code")).to_have_text(code)
        page.clock.resume()
        lab.read(specimen, 2, mine)
        expect(_tile(page, 2)).to_contain_text(mine)  # seen without an action
        visited.forget_refused_requests(409)
    readings = lab.http.get(f"/specimens/{specimen}/cells/1").json()["readings"]
    assert [(each["by"], each["to_code"]) for each in readings] == [("m.muster", theirs), (WHO, mine)]
    assert [each["code"] for each in lab.cells(specimen)] == [mine, mine, mine, theirs]


def test_a_reading_is_kept_where_another_browser_changes_or_removes_the_cell(
    browser: Browser, lab: Lab, draw: Draw
) -> None:
    specimen = lab.specimen(pictures(draw, 3, 150))
    before = [each["code"] for each in lab.cells(specimen)]
    theirs, _ = _other_codes(lab, specimen)
    with at(browser, lab, f"lab/{specimen}") as own, at(browser, lab, f"lab/{specimen}", who="m.muster") as other:
        _stop_clock(own.page)
        for page in (own.page, other.page):
            page.wait_for_selector(f"#review{LOADED}")
        _change_and_remove(other.page, theirs)
        own.page.keyboard.press("Control+a")
        own.page.keyboard.press("Control+Enter")  # cell 1 has another class meanwhile, and cell 3 is removed
        _choose_own(own.page)
        expect(own.page.locator("#alert")).to_contain_text("removed cells that you have read: 3")
        expect(own.page.locator(TILE)).to_have_count(2)
        for page in (own.page, other.page):
            for place in (1, 2):
                expect(_tile(page, place)).to_contain_text(f"✓ {WHO}")
        own.forget_refused_requests(409)
        own.forget_refused_requests(404)
    assert [each["code"] for each in lab.cells(specimen)] == before[:2]


def _change_and_remove(page: Page, code: str) -> None:
    """Give cell 1 another class, and remove cell 3, by keys."""
    page.select_option("#reason", index=1)
    _tile(page, 1).locator(".tile-body").click()
    page.keyboard.press(key_of(page, code))
    expect(_tile(page, 1)).to_contain_text("✓ m.muster")
    _tile(page, 3).locator(".tile-body").click()
    page.keyboard.press("Delete")
    page.click("#remove-do")
    expect(page.locator("#remove-dialog")).to_be_visible()  # a reason is needed
    page.click("#remove-reasons button >> nth=0")
    page.keyboard.press("Enter")
    expect(page.locator(TILE)).to_have_count(2)


def _choose_own(page: Page) -> None:
    """In the dialogue of two readings: keys that were meant for the gallery choose nothing."""
    expect(page.locator("#merge-dialog")).to_be_visible()
    for key in ("Control+Enter", "Enter", "Escape", "Escape", "b"):
        page.keyboard.press(key)
    expect(page.locator("#merge-dialog")).to_be_visible()
    expect(page.locator("#merge-list input:checked")).to_have_count(0)
    page.check("#merge-list input[value=own]")
    page.keyboard.press("Enter")


def _other_codes(lab: Lab, specimen: str) -> list[str]:
    """Two classes that no cell of the specimen has."""
    present = {each["code"] for each in lab.cells(specimen)}
    return [code for code in ("BLA", "PMO", "MON", "MYB", "EOS", "LYT", "NGS") if code not in present][:2]


def _stop_clock(page: Page) -> None:
    page.clock.install()
    page.reload()
    page.wait_for_selector(f"#review{LOADED}")
    page.clock.pause_at(time.time() + 1)


def _tile(page: Page, place: int) -> Locator:
    return page.locator(f'{TILE}[data-place="{place}"]')


def _select(page: Page, *places: int) -> None:
    for place in places:
        _tile(page, place).locator(".tile-body").click(modifiers=["Control"])


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
        expect(page.locator("#filter-only [data-count=changed]")).to_have_text("1")
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
    with at(browser, lab, "lab", **options) as visited:
        page = visited.page
        page.wait_for_selector("#rows tr")
        assert visited.serious_findings() == []
        page.goto(f"{lab.url}/lab/{specimen}")
        page.wait_for_selector(f"#review{LOADED}")
        page.check("input[value=classes]", force=True)
        page.locator(f"{TILE} .tile-body").first.click()
        assert visited.serious_findings() == []
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
    """A key is answered within 100 ms more than on a specimen of three cells, on the same machine in the same run."""
    few, many = lab.specimen(pictures(draw, 3, 600)), lab.specimen(pictures(draw, 500, 1000))
    assert _answer_ms(browser, lab, many) < _answer_ms(browser, lab, few) + 100


def _answer_ms(browser: Browser, lab: Lab, specimen: str) -> float:
    """The median time from a key to the frame that shows its class."""
    script = """key => new Promise((resolve) => {
        const began = performance.now();
        document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
        requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - began)));
    })"""
    with at(browser, lab, f"lab/{specimen}") as visited:
        page = visited.page
        page.wait_for_selector(f"#review{LOADED}")
        page.select_option("#reason", index=1)
        times = []
        for at_tile, code in enumerate(("BLA", "PMO", "MON")):
            page.locator(f"{TILE} .tile-body").nth(at_tile).focus()
            times.append(page.evaluate(script, key_of(page, code)))
        expect(page.locator("#filter-only [data-count=changed]")).not_to_have_text("0")
    return sorted(times)[1]


@pytest.mark.slow
def test_without_a_laboratory_the_page_says_so(browser: Browser, artefact: Path) -> None:
    with served(artefact) as service:
        service.wait_listening()
        with visit(browser, service.url) as visited:
            visited.page.evaluate("localStorage.setItem('acting-user', 'm.muster')")
            visited.page.goto(f"{service.url}/lab")
            expect(visited.page.locator("#alert")).to_contain_text("MARROWLENS_LIS_DATABASE")
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
