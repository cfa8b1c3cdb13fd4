"""Dates and times from REST and HL7: stored as the same day, or refused; never a 500."""

import json
import re
import time
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import classified, manifest, sign_request, use_cases, user
from laboratory import OBR, ORC, PID, SPM, answer, order
from pydantic import TypeAdapter, ValidationError
from sender import ERIKA, Sender
from serving import client, refused

from service.config.lis import LisSettings
from service.lis.domain.report import COLLECTION_FIELDS, CollectedAt, Moment
from service.lis.exchange.astm import records
from service.lis.exchange.channels import receivers
from service.lis.exchange.code_map import CodeMap
from service.lis.exchange.hl7.orders import OrderReader
from service.lis.exchange.hl7.reader import read_header
from service.lis.exchange.hl7.timestamps import parse_date, parse_timestamp, parse_zone
from service.lis.exchange.orders import OrderRefused

OFF = [
    "0001-01-01T00:00:00+14:00",
    "0001-01-01T00:00:00Z",
    "1899-12-31T23:59:59Z",
    "2200-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-12:00",
    "2026-05-04T24:00:00Z",
    "2026-06-30T23:59:60Z",
    "2026-02-29T08:30:00Z",
    "2026-05-04T08:30:00+14:01",
    "2026-05-04T08:30:00-23:59",
    "2026-05-04T08:30:00",
    "2026-05-04",
    "20260504",
    "1777883400",
    " 2026-05-04T08:30:00Z",
    20260504,
    1777883400,
    1777883400.5,
    1e20,
    True,
    -1,
    ["2026-05-04T08:30:00Z"],
]
KEPT = {
    "2026-05-04T00:30:00+14:00": "2026-05-03T10:30:00Z",
    "2026-05-04T23:30:00-12:00": "2026-05-05T11:30:00Z",
    "2026-12-31T23:59:59.9999999Z": "2026-12-31T23:59:59.999999Z",
    "1900-01-01T00:00:00Z": "1900-01-01T00:00:00Z",
    "2199-12-31T23:59:59Z": "2199-12-31T23:59:59Z",
}
OFF_DAYS: list[Any] = [0, "0", 19640812, "19640812", -86400, True, "1964-08-12T00:00:00", "1964-08-12T00:00:00Z"]
OFF_DAYS += ["0000-01-01", "10000-01-01", "1964-02-30", "1964-8-12", "12.08.1964", "1964-08-12 "]


def test_by_rest_a_time_is_kept_or_refused(artefact: Path, tmp_path: Path) -> None:
    with client(artefact, lis={"database": f"sqlite:///{tmp_path / 'lab.db'}"}) as http:
        http.headers.update({"X-Acting-User": "m.muster", "Content-Type": "application/json"})
        specimen: dict[str, Any] = {"number": "BM-1", "patient": {"identifier": "1"}}
        for value in OFF:
            refused(
                http.post("/specimens", content=json.dumps(specimen | {"collected_at": value})),
                422,
                "invalid-parameter",
            )
        for value in OFF_DAYS:
            born = {"patient": {"identifier": "1", "birth_date": value}}
            refused(http.post("/specimens", content=json.dumps(specimen | born)), 422, "invalid-parameter")
        made = http.post("/specimens", json=specimen).json()
        for revision, (value, stored) in enumerate(KEPT.items(), 1):
            change = {"revision": revision, "collected_at": value}
            assert http.patch(f"/specimens/{made['id']}", json=change).json()["collected_at"] == stored
        for value in OFF:
            change = {"revision": len(KEPT) + 1, "collected_at": value}
            refused(http.patch(f"/specimens/{made['id']}", content=json.dumps(change)), 422, "invalid-parameter")


@pytest.mark.parametrize(
    "value",
    [
        "00010101000000+1400",
        "00010101",
        "18991231235959+0000",
        "22000101000000+0000",
        "99991231235959-1200",
        "99991231235959",
        "20260504240000+0000",
        "20260630235960+0000",
        "20260230",
        "20260504083000+1460",
        "20260504083000+1401",
        "20260504083000-2359",
        "20260504083000+9900",
        "00000504",
        "202613",
        "1777883400",
    ],
)
def test_by_hl7_a_time_that_is_none_is_ae_at_its_place(value: str) -> None:
    for spm, obr, place in (
        (SPM.rpartition("|")[0] + f"|{value}", OBR, "SPM^1^17"),
        (SPM.rpartition("|")[0], f"{OBR}|||{value}", "OBR^1^7"),
    ):
        said = answer(order(PID, spm, ORC, obr))
        assert "\rMSA|AE|ORD-1\r" in said
        assert f"\rERR||{place}|102^" in said


@pytest.mark.parametrize("value", ["2026", "202605"])
def test_by_hl7_a_collection_time_without_a_day_is_set_aside_with_a_warning(value: str) -> None:
    own = SPM.rpartition("|")[0]
    for spm, obr, place, kept in (
        (f"{own}|{value}", OBR, "SPM^1^17", None),
        (f"{own}|{value}", f"{OBR}|||20260504", "SPM^1^17", {"OBR-7": "20260504"}),
        (f"{own}|20260504^{value}", OBR, "SPM^1^17", {"SPM-17": "20260504"}),
        (own, f"{OBR}|||{value}", "OBR^1^7", None),
        (own, f"{OBR}|||20260504|{value}", "OBR^1^8", {"OBR-7": "20260504"}),
    ):
        raw = order(PID, spm, ORC, obr)
        said = answer(raw)
        assert "\rMSA|AA|ORD-1\r" in said
        assert f"\rERR||{place}|102^" in said and "|W|" in said
        (found,) = OrderReader().read(raw.encode(), read_header(raw.encode())).orders
        times = {name: sent for name, sent in (found.order.as_ordered or {}).items() if name in COLLECTION_FIELDS}
        assert (times or None, found.collected_at is None) == (kept, kept is None)


@pytest.mark.parametrize("by_machine", [False, True])
@pytest.mark.parametrize(
    ("zone", "sent", "offset"),
    [
        ("Europe/Berlin", "20260329023000", "+0100 +0200"),  # the clock skips it: the hour before or after
        ("Europe/Berlin", "20261025023000", "+0200"),  # the clock shows it twice
        ("Asia/Kathmandu", "2026050408", "+0545"),
        ("Europe/Amsterdam", "19300504083000", "+0019"),  # local mean time, 32 s more: HL7 has whole minutes
        ("Africa/Monrovia", "195001011200", "-0044"),
    ],
)
def test_a_time_without_an_offset_is_reported_in_any_zone(
    zone: str,
    sent: str,
    offset: str,
    by_machine: bool,
    artefact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    addresses = {"hl7_to": "127.0.0.1:1", "fhir_url": "http://127.0.0.1:1/fhir", "astm_to": "127.0.0.1:1"}
    lis = LisSettings(**addresses, time_zone=None if by_machine else zone)
    if by_machine:
        request.addfinalizer(time.tzset)  # runs after the variable is restored
        monkeypatch.setenv("TZ", zone)
        time.tzset()
    channels = [each.channel for each in receivers(lis, CodeMap.load(), None)]
    with use_cases(f"sqlite:///{tmp_path}/lab.db", channels=channels) as front:
        sender = Sender(front, time_zone=lis.time_zone)
        spm = f"SPM|1|T-1|{'|' * 14}{sent}"
        assert sender.send(ERIKA, spm, "ORC|NW|P-1|F-1", "OBR|1|P-1|F-1|BM", zone="") == "AA"
        found = sender.specimen()
        revision, *_ = front.add(found.id, [classified("PMO")], manifest(artefact), user("scanner"))
        request_to_sign = sign_request(revision, accept_unread=True)
        written = {each.channel: each.message for each in front.preview(found.id, request_to_sign, user("dr")).messages}
        assert set(written) == {"hl7", "fhir", "astm"}
        (line,) = (line for line in written["hl7"].split("\r") if line.startswith("SPM|"))
        begins, offset_sent = line.split("|")[17][:-5], line.split("|")[17][-5:]
        assert (begins, offset_sent in offset.split()) == (sent, True)
        assert f"{offset_sent[:3]}:{offset_sent[3:]}" in written["fhir"]
        assert found.collected_at is not None
        assert abs(parse_timestamp(begins + offset_sent, None) - found.collected_at) < timedelta(minutes=1)


@pytest.mark.parametrize("zone", ["+1460", "+9900", "-2400"])
def test_a_zone_that_is_none_is_not_replaced_by_this_machines(zone: str) -> None:
    said = answer(order(PID, SPM[:-5], ORC, OBR, f7=f"20260504083000{zone}"))
    assert "\rMSA|AE|ORD-1\r" in said and "\rERR||MSH^1^7|102^" in said
    with pytest.raises(ValueError, match="invalid time zone"):
        parse_zone(f"20260504083000{zone}")


@pytest.mark.parametrize("value", ["19640812240000", "19640812996060", "19640812000000+9900", "00000812", "19640230"])
def test_a_birth_day_with_an_impossible_time_is_none(value: str) -> None:
    assert "\rERR||PID^1^7|102^" in answer(order(PID.replace("19640812", value), SPM, ORC, OBR))
    with pytest.raises(ValueError, match="^invalid date$"):
        parse_date(value)


@given(st.from_regex(r"[0-9]{4,14}(\.[0-9]{1,4})?([+-][0-9]{4})?", fullmatch=True))
def test_any_digits_are_the_day_that_they_say_or_refused(value: str) -> None:
    raw = order(PID, SPM.rpartition("|")[0] + f"|{value}", ORC, OBR).encode()
    try:
        found = OrderReader("ASCII", zone=UTC).read(raw, read_header(raw))
    except OrderRefused as tls_error:
        assert (tls_error.code, tls_error.location) == ("102", "SPM^1^17")
        return
    (taken,) = found.orders
    if len(re.split("[-+.]", value)[0]) < 8:
        assert taken.collected_at is None
        assert [(each.code, each.location) for each in found.warnings] == [("102", "SPM^1^17")]
        return
    assert taken.collected_at is not None and not found.warnings
    sign, digits = value[-5], value[-4:]
    ahead = timedelta(hours=int(digits[:2]), minutes=int(digits[2:])) if sign in "+-" else timedelta()
    there = taken.collected_at.astimezone(timezone(-ahead if sign == "-" else ahead))
    assert there.strftime("%Y%m%d") == value[:8]


@given(st.datetimes(timezones=st.sampled_from([timezone(timedelta(hours=hours)) for hours in range(-23, 24)])))
def test_any_moment_is_kept_or_a_validation_error(moment: datetime) -> None:
    for kind in (CollectedAt, Moment):
        try:
            assert TypeAdapter(kind).validate_python(moment) == moment
        except ValidationError as error:
            assert error.errors()[0]["type"] == "value_error"


@pytest.mark.parametrize("year", [1, 999, 1900, 9999])
def test_a_year_has_four_digits_in_astm(year: int) -> None:
    assert records._digits(date(year, 1, 2).isoformat()) == f"{year:04}0102"
