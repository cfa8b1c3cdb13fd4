"""Acknowledgements sent for incoming messages, and their content."""

from typing import Any

import hl7
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from laboratory import OBR, ORC, PID, SENT, SPM, answer, order

from examples import examples
from service.lis.exchange.hl7.ack_builder import Outcome, ReplyMetadata, acknowledgements
from service.lis.exchange.hl7.reader import Header, MessageRejected
from service.lis.exchange.orders import OrderRefused

OML21 = "OML^O21^OML_O21"
ORM = "ORM^O01"

HEADER = Header(("LIS",), ("LAB",), ("M",), ("L",), code="OML", event="O33", control_id="7", version="2.5.1")
YES, NO, NEVER = (
    Outcome(),
    Outcome(refused=OrderRefused("204", "no such specimen", "SPM^1^2")),
    Outcome(refused=MessageRejected("203", "no", "MSH^1^12")),
)


@pytest.mark.parametrize(
    ("accept", "application", "outcome", "codes"),
    [
        ("", "", YES, ["AA"]),
        ("", "", NO, ["AE"]),
        ("", "", NEVER, ["AR"]),
        ("AL", "AL", YES, ["CA", "AA"]),
        ("AL", "AL", NO, ["CE"]),
        ("AL", "AL", NEVER, ["CR"]),
        ("AL", "NE", YES, ["CA"]),
        ("AL", "", NO, ["CE"]),
        ("NE", "AL", YES, ["AA"]),
        ("", "AL", NO, ["AE"]),
        ("NE", "NE", YES, []),
        ("NE", "NE", NO, []),
        ("ER", "AL", YES, ["AA"]),
        ("ER", "AL", NO, ["CE"]),
        ("SU", "ER", YES, ["CA"]),
        ("SU", "ER", NO, ["AE"]),
        ("SU", "SU", NEVER, []),
        ("NE", "ER", YES, []),
        ("NE", "ER", NEVER, ["AR"]),
        ("??", "AL", YES, ["AA"]),
        ("??", "P", NO, ["AE"]),
    ],
)
def test_acknowledgements_are_sent_as_they_were_asked_for(
    accept: str, application: str, outcome: Outcome, codes: list[str]
) -> None:
    asked = Header(**{name: getattr(HEADER, name) for name in Header.__slots__} | acks(accept, application))
    answers = [
        hl7.parse(each)
        for each in acknowledgements(asked, outcome, [ReplyMetadata("a", SENT), ReplyMetadata("b", SENT)])
    ]
    assert [str(each.segment("MSA")[1]) for each in answers] == codes
    assert all(str(each.segment("MSA")[2]) == "7" for each in answers)
    assert len({str(each.segment("MSH")[10]) for each in answers}) == len(answers)
    kinds = [str(each.segment("MSH")[9]) for each in answers]
    assert kinds == ["ACK^O33^ACK" if code[0] == "C" else "ORL^O34^ORL_O34" for code in codes]


def acks(accept: str, application: str) -> dict[str, Any]:
    return {"accept_ack": accept, "application_ack": application}


@pytest.mark.parametrize(
    ("message", "kind", "done"),
    [
        (order(PID, SPM, ORC, OBR, "ORC|CA|P-79"), "ORL^O34^ORL_O34", ["OK", "CR"]),
        (order(PID, ORC, OBR, "ORC|XO|P-78", kind=OML21), "ORL^O22^ORL_O22", ["OK", "XR"]),
    ],
)
def test_a_yes_says_what_was_done_with_each_order(message: str, kind: str, done: list[str]) -> None:
    said = answer(message)
    parsed = hl7.parse(said)
    assert str(parsed.segment("MSH")[9]) == kind
    assert [str(orc[1]) for orc in parsed.segments("ORC")] == done
    assert parse_message(said, validation_level=VALIDATION_LEVEL.STRICT).validate()


def test_a_yes_names_every_specimen_above_its_orders() -> None:
    said = answer(order(PID, SPM, ORC, OBR, "ORC|XO|P-78", "SPM|2|M26-0043", "ORC|CA|P-79"))
    assert [line[:14] for line in said.split("\r")[3:-1]] == [
        "SPM|1|M26-0042",
        "ORC|OK|P-77|F-",
        "OBR|1|P-77|F-1",
        "ORC|XR|P-78",
        "SPM|2|M26-0043",
        "ORC|CR|P-79",
    ]


def test_the_answer_to_a_change_without_a_name_lists_no_orders() -> None:
    said = answer(order("PID|1||100234^^^HOSPITAL^MR", SPM, ORC.replace("NW", "XO"), OBR))
    assert [line[:7] for line in said.split("\r")[1:-1]] == ["MSA|AA|"]
    assert parse_message(said, validation_level=VALIDATION_LEVEL.STRICT).validate()


def test_a_yes_to_two_specimens_is_valid() -> None:
    second = "SPM|2|M26-0043||MAR", "ORC|NW|P-78|F-13", "OBR|2|P-78|F-13|BMDIFF^Marrow differential^99LAB"
    said = answer(order(PID, SPM, ORC, OBR, *second))
    assert parse_message(said, validation_level=VALIDATION_LEVEL.STRICT).validate()
    assert [line[:4] for line in said.split("\r")[2:-1]] == ["PID|", *["SPM|", "ORC|", "OBR|"] * 2]


@pytest.mark.parametrize(("kind", "version"), [(ORM, "2.3"), (ORM, "2.4"), ("OML^O33^OML_O33", "2.5.1")])
def test_warnings_are_in_every_acknowledgement(kind: str, version: str) -> None:
    message = order(PID[:-1] + "X", *([SPM] if version == "2.5.1" else []), ORC, OBR, kind=kind, f12=version)
    warned = "unknown sex, stored as U"
    for lines in (
        [answer(message).split("\r")],
        [answer(message.replace("|||UNICODE", "|AL|NE||UNICODE")).split("\r")],
    ):
        assert warned in (lines[0][1] if version < "2.5" else lines[0][2])


@pytest.mark.parametrize("version", ["2.3", "2.3.1", "2.4"])
def test_an_early_sender_is_answered_in_the_form_of_its_time(version: str) -> None:
    said = answer(order(PID.replace("100234", ""), ORC, OBR, kind=ORM, f12=version))
    lines = said.split("\r")
    kind = "ORR^O02" if version == "2.3" else "ORR^O02^ORR_O02"  # the structure came with 2.3.1
    assert lines[0].split("|")[8:12] == [kind, "ACK-1", "P", version]
    assert lines[1:3] == [
        "MSA|AE|ORD-1|the patient has no number",
        "ERR|PID^1^3^101&Required field missing&HL70357",
    ]


@pytest.mark.parametrize(
    ("kind", "version", "answered"),
    [
        ("OML^O33", "2.4", "ACK^O33^ACK"),
        ("OML^O33^OML_O33", "2.5", "ORL^O34^ORL_O34"),
        ("OML^O21", "2.4", "ORL^O22^ORL_O22"),
        (ORM, "2.6", "ORR^O02^ORR_O02"),
        (ORM, "2.7", "ACK^O01^ACK"),
    ],
)
def test_an_answer_has_a_structure_that_its_version_defines(kind: str, version: str, answered: str) -> None:
    said = answer(order(PID, *([SPM] if "O33" in kind else []), ORC, OBR, kind=kind, f12=version))
    assert said.split("|")[8] == answered
    assert "\rMSA|AA|ORD-1" in said
    assert parse_message(said, validation_level=VALIDATION_LEVEL.STRICT).validate()


def test_an_answer_goes_back_to_whom_the_message_came_from_in_its_characters() -> None:
    said = answer(order(PID, SPM, ORC, OBR, f3="LIS^1.2.3^ISO", f4="A\\T\\B", f5="M", f18="8859/1"))
    assert said.split("|")[2:6] == ["M", "LAB", "LIS^1.2.3^ISO", "A\\T\\B"]
    assert said.split("\r")[0].split("|")[17] == "8859/1"


@settings(max_examples=examples(300))
@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 30), st.binary(max_size=12)), max_size=4))
def test_whatever_came_is_answered_by_a_message(cuts: list[tuple[int, int, bytes]]) -> None:
    raw = order(PID, SPM, ORC, OBR).encode()
    for start, length, instead in cuts:
        raw = raw[:start] + instead + raw[start + length :]
    assume(b"|NE" not in raw and b"|SU" not in raw and b"|ER" not in raw)  # by chance, and then nobody wants an answer
    said = hl7.parse(answer(raw))
    assert str(said.segment("MSA")[1]) in ("AA", "AE", "AR")
    assert [str(each[0]) for each in said][:2] == ["MSH", "MSA"]
