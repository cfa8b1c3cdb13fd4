"""Acknowledgements received for reports: accepted, rejected with reasons, or not usable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from laboratory import SECRETS

from service.lis.exchange.hl7.ack_parser import parse_acknowledgement
from service.lis.exchange.transport import NoAnswer, Rejected

ACK = "MSH|^~\\&|LIS|LAB|M|L|20260504||ACK^R01^ACK|9|P|{version}\rMSA|{code}|{about}|{words}\r{err}"


def acknowledged(code: str = "AA", about: str = "1", err: str = "", version: str = "2.3", words: str = "") -> bytes:
    return ACK.format(code=code, about=about, err=err, version=version, words=words).encode()


@pytest.mark.parametrize("code", ["AA", "CA"])
@pytest.mark.parametrize("version", ["2.3", "2.5.1", "2.8", ""])
def test_a_yes_is_a_yes_whatever_version_it_says(code: str, version: str) -> None:
    reply = parse_acknowledgement(acknowledged(code, version=version), "ASCII")
    reply.raise_for_rejection()
    assert (reply.about, reply.final) == ("1", code == "AA")


@pytest.mark.parametrize(
    ("err", "reason"),
    [
        (
            "ERR||PID^1^3|101^Missing^HL70357|E||||Muster, Erika has no number\r",
            "101 required field missing at PID^1^3",
        ),
        ("ERR|PID^1^3^101&Missing&HL70357\r", "101 required field missing at PID^1^3"),
        ("ERR||Muster^Erika|207|E\r", "207 application internal error"),
        ("ERR||PID^1|Muster^Erika|E\r", "an error without a code of HL7 table 0357 at PID^1"),
        ("", "no reason given"),
    ],
)
@pytest.mark.parametrize("code", ["AE", "AR", "CE", "CR"])
def test_a_no_carries_its_errors_and_nothing_that_it_quotes(code: str, err: str, reason: str) -> None:
    came = acknowledged(code, err=err, words="Muster Erika 100234")
    with pytest.raises(Rejected) as rejected:
        parse_acknowledgement(came, "ASCII").raise_for_rejection()
    words = "no error code, only a text" if reason == "no reason given" else reason
    assert rejected.value.reason == f"{code}; {words}"
    assert rejected.value.stored_reason().startswith(f"{code}; {words}: Muster Erika 100234")
    assert rejected.value.reply == came.decode()
    assert not any(secret in str(rejected.value) for secret in SECRETS)


@pytest.mark.parametrize(
    "came",
    [
        b"",
        b"OK",
        b"MSH",
        b"MSH|^~\\&",
        b"MSH|^~\\&|\rMSA\r",
        acknowledged("XX"),
        b"MSA|AA|1\r",
        b"\x00" * 99,
        b"MSH||||||",
        b"HTTP/1.1 400",
    ],
)
def test_what_is_no_acknowledgement_is_no_answer(came: bytes) -> None:
    with pytest.raises(NoAnswer):
        parse_acknowledgement(came, "ASCII").raise_for_rejection()


@pytest.mark.parametrize(
    ("words", "err", "text"),
    [
        ("", "ERR||PID^1^3|204^Unknown key^HL70357|E||||No such patient\r", "No such patient"),
        ("", "ERR||PID^1^3|204^Unknown key^HL70357|E|||trace|No such patient\r", "No such patient; trace"),
        ("Order closed", "ERR|||X7^Order is closed^L|E\r", "Order closed; Order is closed"),
        ("Order closed", "ERR|ORC^1^2^X7&Closed&L\r", "Order closed; Closed"),
        ("", "", ""),
    ],
)
def test_a_dead_letter_keeps_what_the_receiver_says(words: str, err: str, text: str) -> None:
    with pytest.raises(Rejected) as rejected:
        parse_acknowledgement(acknowledged("AE", err=err, words=words), "ASCII").raise_for_rejection()
    assert rejected.value.text == text


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda data: b"MSH|^~\\&|" + data))
def test_no_bytes_break_the_reading_of_an_acknowledgement(came: bytes) -> None:
    try:
        parse_acknowledgement(came, "UNICODE UTF-8").raise_for_rejection()
    except (NoAnswer, Rejected):
        pass
