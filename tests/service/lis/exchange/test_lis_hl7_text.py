"""HL7 v2 texts, times and character sets: written and read back, by this service and by python-hl7."""

import unicodedata
from datetime import UTC, date, datetime, timedelta, timezone

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laboratory import COLLECTED

from service.lis.exchange.hl7.encoding import (
    CODECS,
    Delimiters,
    components,
    encode,
    escape,
    normalize_line_breaks,
    segment,
    text,
    unescape,
)
from service.lis.exchange.hl7.reader import read_segments
from service.lis.exchange.hl7.timestamps import format_date, format_timestamp, parse_date, parse_timestamp, parse_zone

ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(ANY)
def test_any_text_is_read_back_by_us_and_by_python_hl7(words: str) -> None:
    plain = normalize_line_breaks(words)
    written_down = escape(words)
    assert not set(written_down) & set("|^~&\u2028\u2029")
    assert not [char for char in written_down if unicodedata.category(char) == "Cc"]
    assert unescape(written_down) == plain
    container = hl7.parse("MSH|^~\\&|\r")
    assert container.unescape(written_down) == plain.replace("\n", "\r")


@given(ANY, st.sampled_from(sorted(CODECS)), st.integers(1, 4))
def test_text_in_hexadecimal_is_read_however_its_bytes_are_escaped(words: str, charset: str, size: int) -> None:
    data = words.encode(CODECS[charset], "ignore")
    pieces = [data[at : at + size].hex().upper() for at in range(0, len(data), size)]
    escaped = "".join(f"\\X{piece}\\" for piece in pieces)
    assert unescape(f"M{escaped}\\F\\", codec=CODECS[charset]) == f"M{data.decode(CODECS[charset])}|"


@given(ANY, st.sampled_from(sorted(CODECS)))
def test_any_text_survives_every_character_set_or_is_seen_not_to(words: str, charset: str) -> None:
    message = segment("NTE", {3: text(words)})
    wanted = normalize_line_breaks(words if charset == "UNICODE UTF-8" else unicodedata.normalize("NFC", words))
    data = encode(message, charset)
    assert not set(data) & {0x0B, 0x1C, 0x0D, 0x0A}
    came = unescape(data.decode(CODECS[charset]).removeprefix("NTE").lstrip("|"), codec=CODECS[charset])
    assert len(came) == len(wanted)
    for mine, theirs in zip(wanted, came, strict=True):
        assert mine == theirs or (theirs == "?" and mine.encode(CODECS[charset], "ignore") == b"")


def test_a_letter_that_a_set_lacks_is_a_question_mark_and_never_another_letter() -> None:
    assert encode("Łukasz Müller", "8859/1") == b"?ukasz M\xfcller"
    assert encode("Mu\u0308ller", "8859/1") == b"M\xfcller"
    assert encode("Müller", "ASCII") == encode("Müller", "") == b"M?ller"
    assert encode("\ud800", "UNICODE UTF-8") == b"?"


@pytest.mark.parametrize(
    ("written_down", "plain"),
    [
        (r"a\H\b\N\c", "abc"),
        (r"\X4D C3\ \Zxy\ \C2842\ \\ x", r"\X4D C3\ \Zxy\ \C2842\ \\ x"),
        (r"M\XC3BC\ller", "Müller"),
        (r"M\XFC\ller", "Müller"),
        (r"one\.br\two\.sp\three", "one\ntwo\nthree"),
        ("ends in \\", "ends in \\"),
    ],
)
def test_foreign_escapes_are_read_or_left_as_they_came(written_down: str, plain: str) -> None:
    assert unescape(written_down) == plain


def test_a_message_may_choose_its_own_delimiters() -> None:
    assert unescape("a#F#b#T#c#E#", Delimiters("$", "*", "+", "#", "!")) == "a$b!c#"
    (msh, pid) = read_segments(b"MSH$*+#!$A*B!C\rPID$$$1*2!3+4\r", "ASCII", ["PID"])
    assert (msh.get(3), msh.get(3, 2), msh.get(3, 2, 2)) == ("A", "B", "C")
    assert (pid.get(3, 2, 2), pid.get(3, repetition=2), pid.get(9), pid.get(3, 9)) == ("3", "4", "", "")


def test_empty_ends_are_left_away() -> None:
    assert segment("PID", {1: text(1), 3: components("a", None, ""), 9: text(None)}) == "PID|1||a"
    assert segment("ZZZ", {}) == "ZZZ"


@given(st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))
def test_a_time_is_read_as_it_was_written(moment: datetime) -> None:
    assert parse_timestamp(format_timestamp(moment), None) == moment.replace(microsecond=0)


@given(st.dates())
def test_a_day_is_read_as_it_was_written(day: date) -> None:
    assert parse_date(format_date(day)) == day


def test_times_without_a_zone_are_of_the_place_that_is_named() -> None:
    berlin = timezone(timedelta(hours=2))
    assert parse_timestamp("20260504083000", berlin) == COLLECTED
    assert parse_timestamp("202605040830+0200", UTC) == COLLECTED
    assert parse_timestamp("20260504013000.25-0500", UTC).microsecond == 250000
    assert parse_timestamp("20260504", UTC) == datetime(2026, 5, 4, tzinfo=UTC)
    assert (parse_zone("202605040830+0200"), parse_zone("20260504"), parse_zone("noon+0200")) == (berlin, None, None)
    assert parse_date("1964") is parse_date("196408") is None


@pytest.mark.parametrize(
    "value", ["2026", "202605", "20260230", "20260504256060", "04.05.2026", "20260504+9900", "x", "٢٠٢٦٠٥٠٤"]
)
def test_what_is_no_time_is_refused_without_being_quoted(value: str) -> None:
    with pytest.raises(ValueError, match="^(not an HL7 timestamp|invalid date)") as refused:
        parse_timestamp(value, UTC)
    assert value not in str(refused.value)
