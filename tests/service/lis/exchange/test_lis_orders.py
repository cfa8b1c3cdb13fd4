"""Orders of laboratory systems: fields that are read, errors with their position, and both answers."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laboratory import COLLECTED, OBR, ORC, PATIENT, PID, SECRETS, SPM, answer, order

from service.lis.domain.report import Order, PatientNumber
from service.lis.exchange.hl7.orders import OrderReader, check_header
from service.lis.exchange.hl7.reader import MAX_DELIMITERS, MessageRejected, messages_of, read_header
from service.lis.exchange.orders import IncomingOrder, OrderAction, OrderRefused, ReceivedOrders

OML21 = "OML^O21^OML_O21"
ORM = "ORM^O01"


def read_message(message: str | bytes, charset: str = "UNICODE UTF-8", **settings: Any) -> ReceivedOrders:
    raw = message if isinstance(message, bytes) else message.encode()
    header = read_header(raw)
    check_header(header, "P")
    return OrderReader(charset, zone=UTC, **settings).read(raw, header)


def read(message: str | bytes, charset: str = "UNICODE UTF-8") -> list[IncomingOrder]:
    return read_message(message, charset).orders


def refused(message: str | bytes) -> OrderRefused:
    with pytest.raises(OrderRefused) as caught:
        read(message)
    assert not any(secret in str(caught.value) + caught.value.location for secret in SECRETS)
    return caught.value


@pytest.mark.parametrize(
    "message",
    [
        order(PID, SPM, ORC, OBR),
        order(PID, ORC, OBR, SPM, kind=OML21),
        order(PID, "PV1|1|I", ORC, "TQ1|1||||||||R", OBR, "NTE|1||morning", "OBX|1|ST|a||b", SPM, kind=OML21),
        order(PID, SPM, "SAC|||M26-0042", ORC, OBR).replace("\r", "\n"),
        order(PID, SPM, ORC, OBR).replace("\r", "\r\n"),
        order(PID, SPM, ORC, OBR, f12="2.5.1^USA", f11="P^T"),
    ],
)
def test_an_order_is_read_from_every_message_that_may_hold_one(message: str) -> None:
    (found,) = read(message)
    assert found == IncomingOrder(
        action=OrderAction.NEW,
        number="M26-0042",
        patient=PATIENT.model_copy(
            update={"numbers": (PatientNumber(number="100234", namespace="HOSPITAL", type="MR"),)}
        ),
        order=Order(
            placer_number="P-77",
            filler_number="F-12",
            service_code="BMDIFF",
            service_name="Marrow differential",
            service_system="99LAB",
            as_ordered=found.order.as_ordered,
        ),
        collected_at=COLLECTED,
    )


@pytest.mark.parametrize(
    "version", ["2.1", "2.2", "2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.5.2", "2.6", "2.7.1", "2.8", ""]
)
def test_orm_of_every_version_is_read(version: str) -> None:
    (found,) = read(order(PID, ORC, f"{OBR}|||20260504083000", kind=ORM, f12=version))
    assert (found.number, found.collected_at) == ("F-12", COLLECTED)


@pytest.mark.parametrize(
    ("spm", "orc", "obr", "number"),
    [
        ("SPM|1|A&LIS^B", ORC, OBR, "A"),
        ("SPM|1|^B&LAB", ORC, OBR, "B"),
        ('SPM|1|""', ORC, OBR, "F-12"),
        (None, "ORC|NW|P|Q", "OBR|1|P|Q", "Q"),
        (None, "ORC|NW|P|F", "OBR|1|P", "F"),
        (None, "ORC|NW|Q", "OBR|1|Q", "Q"),
        (None, "ORC|NW|P", "OBR|1", "P"),
        (None, "ORC|CA|P", None, None),  # found by its order's number
    ],
)
def test_the_number_on_the_label_is_found_where_it_stands_first(
    spm: str | None, orc: str, obr: str | None, number: str | None
) -> None:
    (found,) = read(order(PID, *filter(None, [orc, obr, spm]), kind=OML21))
    assert found.number == number


def test_every_specimen_and_every_order_is_one_of_its_own() -> None:
    two = order(PID, SPM, ORC, OBR, "ORC|XO|P-78", "SPM|2|M26-0043", "ORC|CA|P-79", "OBR|1|P-79")
    assert [(each.number, each.action, each.order.placer_number) for each in read(two)] == [
        ("M26-0042", "NW", "P-77"),
        ("M26-0042", "XO", "P-78"),
        ("M26-0043", "CA", "P-79"),
    ]
    two = order(PID, ORC, OBR, SPM, "SPM|2|M26-0043", "ORC|CA|P-79", kind=OML21)
    assert [(each.number, each.action) for each in read(two)] == [
        ("M26-0042", "NW"),
        ("M26-0043", "NW"),
        (None, "CA"),
    ]


def test_a_patient_is_read_as_far_as_he_is_known() -> None:
    second = 'PID|1||^^^OTHER~77^^^HOSPITAL~78||M\\T\\M\\XC3BC\\ller^""||1964|'
    (found,) = read(order(second, SPM, ORC, OBR))
    who = found.patient
    assert (who.identifier, who.authority, who.family, who.given) == ("77", "HOSPITAL", "M&Müller", None)
    assert [(each.number, each.namespace) for each in who.numbers or ()] == [("77", "HOSPITAL"), ("78", None)]
    assert found.deleted == {"patient.given"}
    assert read(order(PID, SPM, ORC, OBR).replace("MSH|^~\\&|", "MSH|^~\\&#|"))[0].number == "M26-0042"  # of 2.7
    assert (who.birth_date, who.sex) == (None, None)
    (found,) = read(order(PID.replace("19640812", "19640812120000+0200"), SPM, ORC, OBR))
    assert found.patient.birth_date == date(1964, 8, 12)


@pytest.mark.parametrize(
    ("taken", "msh", "moment"),
    [
        ("20260504083000+0200", "20260504", COLLECTED),
        ("20260504083000", "20260504103000+0200", COLLECTED),
        ("20260504063000", "20260504103000", COLLECTED),
        ("20260504^20260505", "20260504", datetime(2026, 5, 4, tzinfo=UTC)),
    ],
)
def test_a_time_is_of_its_own_zone_else_of_the_messages(taken: str, msh: str, moment: datetime) -> None:
    (found,) = read(order(PID, SPM.replace("20260504083000+0200", taken), ORC, OBR, f7=msh))
    assert found.collected_at == moment


@pytest.mark.parametrize(
    ("charset", "codec"),
    [("UNICODE UTF-8", "utf-8"), ("8859/1", "latin-1"), ("8859/15", "iso8859-15"), ("8859/2", "iso8859-2")],
)
def test_the_message_says_in_which_characters_it_is(charset: str, codec: str) -> None:
    (found,) = read(order(PID.replace("Muster", "Müßiger"), SPM, ORC, OBR, f18=charset).encode(codec))
    assert found.patient.family == "Müßiger"


def test_a_message_that_does_not_say_is_in_the_characters_of_the_laboratory() -> None:
    raw = order(PID.replace("Muster", "Müller"), SPM, ORC, OBR, f18="").encode("latin-1")
    assert read(raw, "8859/1")[0].patient.family == "Müller"
    with pytest.raises(MessageRejected, match="not of the message's character set"):
        read(raw, "UNICODE UTF-8")


@pytest.mark.parametrize(
    ("message", "code", "location", "rejected"),
    [
        (order(PID, SPM, ORC, OBR, kind="SIU^S12"), "200", "MSH^1^9^1^1", True),
        (order(PID, SPM, ORC, OBR, kind=""), "200", "MSH^1^9^1^1", True),
        (order(PID, SPM, ORC, OBR, kind="OML^O35"), "201", "MSH^1^9^1^2", True),
        (order(PID, SPM, ORC, OBR, f11="T"), "202", "MSH^1^11", True),
        (order(PID, SPM, ORC, OBR, f11=""), "202", "MSH^1^11", True),
        (order(PID, SPM, ORC, OBR, f12="3.0"), "203", "MSH^1^12", True),
        (order(PID, SPM, ORC, OBR, f10=""), "101", "MSH^1^10", True),
        (order(PID, SPM, ORC, OBR, f10="x" * 201), "101", "MSH^1^10", True),
        (order(PID, SPM, ORC, OBR, f3="", f4=""), "101", "MSH^1^3", True),
        (order(PID, SPM, ORC, OBR, f18="KS X 1001"), "103", "MSH^1^18", True),
        (order(PID, SPM, ORC, OBR, f18="ASCII").replace("Erika", "Ürika"), "102", "MSH^1^18", True),
        (order(PID, SPM, ORC, OBR).replace("MSH|^~\\&", "MSH|^^\\&"), "100", "MSH^1", True),
        (order(PID, SPM, ORC, OBR)[4:], "100", "MSH^1", True),
        (order(PID, SPM, ORC, OBR) * 2, "100", "MSH^2", True),
        (order(PID, SPM, ORC, OBR, f14="more"), "100", "MSH^1^14", True),
        (order(PID + "~" * MAX_DELIMITERS, SPM, ORC, OBR), "207", "", True),
        (order(SPM, ORC, OBR), "100", "PID^1", False),
        (order(SPM, PID, ORC, OBR), "100", "PID^1", False),
        (order(PID, SPM, ORC, OBR, PID), "100", "PID^2", False),
        (order(PID), "100", "ORC^1", False),
        (order(PID, SPM), "100", "SPM^1", False),
        (order(PID, SPM, ORC, OBR, SPM), "100", "SPM^2", False),
        (order(PID, SPM, SPM, ORC, OBR), "100", "SPM^1", False),
        (order(PID, SPM, OBR), "100", "OBR^1", False),
        (order(PID, SPM, ORC, OBR, OBR), "100", "OBR^2", False),
        (order(PID, SPM, ORC, OBR, kind=OML21), "100", "SPM^1", False),
        (order(PID.replace("100234", ""), SPM, ORC, OBR), "101", "PID^1^3", False),
        (order(PID.replace("100234", '""'), SPM, ORC, OBR), "101", "PID^1^3", False),
        (order(PID, "SPM|1", "ORC|NW", "OBR|1"), "101", "SPM^1^2", False),
        (order(PID, "ORC|NW", "OBR|1", kind=ORM), "101", "OBR^1^2", False),
        (order(PID, SPM, "ORC||P-77", OBR), "101", "ORC^1^1", False),
        (order(PID, SPM, "ORC|XX|P-77", OBR), "103", "ORC^1^1", False),
        (order(PID.replace("Muster", "Muster\nEr"), SPM, ORC, OBR), "102", "PID^1", True),
        (order(PID.replace("|F", "|F\nSPM|2|T-2").replace("\r", ""), SPM, ORC, OBR), "102", "PID^1", True),
        (order(PID.replace("100234", "~" * 50 + "100234"), SPM, ORC, OBR), "102", "PID^1^3", False),
        (order(PID, SPM, ORC, OBR.replace("P-77", "P-78")), "102", "OBR^1^2", False),
        (order(PID, SPM, ORC, f"{OBR}^{'9' * 1001}"), "102", "OBR^1^4", False),
        (order(PID.replace("19640812", "12.08.1964"), SPM, ORC, OBR), "102", "PID^1^7", False),
        (order(PID.replace("19640812", "19640230"), SPM, ORC, OBR), "102", "PID^1^7", False),
        (order(PID, SPM.replace("20260504083000", "20261304083000"), ORC, OBR), "102", "SPM^1^17", False),
        (order(PID, ORC, f"{OBR}|||202613", kind=ORM), "102", "OBR^1^7", False),
        (order(PID.replace("Muster", "Muster\\.br\\Erika"), SPM, ORC, OBR), "102", "PID^1^5^1^1", False),
        (order(PID.replace("Erika", "E" * 201), SPM, ORC, OBR), "102", "PID^1^5^1^2", False),
        (order(PID, SPM, ORC, OBR.replace("BMDIFF", "B\\X00\\")), "102", "OBR^1^4^1^1", False),
    ],
)
def test_what_cannot_be_taken_is_refused_with_its_code_and_place(
    message: str, code: str, location: str, rejected: bool
) -> None:
    error = refused(message)
    assert (error.code, error.location, isinstance(error, MessageRejected)) == (code, location, rejected)
    if message.startswith("MSH") and "MSH|^^" not in message:
        msa, err = (hl7.parse(answer(message)).segments(name)[0] for name in ("MSA", "ERR"))
        about = read_header(message.encode()).control_id
        assert [str(each) for each in msa][1:] == ["AR" if rejected else "AE", *filter(None, [about])]
        assert str(err[3]).startswith(f"{code}^") or f"^{code}&" in str(err[1])


FILLED = "MSH|^~\\&|A|B|C|D|2026||OML^O33|1|P|2.5.1||||||UNICODE UTF-8\r"


@given(
    st.binary(max_size=300)
    | st.text(st.sampled_from('|^~\\&\r\n"MSHPIDOBRC1234567890X.'), max_size=300).map(lambda t: (FILLED + t).encode())
)
def test_no_bytes_break_the_reading_of_an_order(raw: bytes) -> None:
    try:
        read(raw)
    except OrderRefused as error:
        assert error.code.isdigit()


def test_a_zone_beyond_a_day_is_no_time() -> None:
    assert refused(order(PID, SPM.replace("+0200", "+9900"), ORC, OBR)).location == "SPM^1^17"
    (found,) = read(order(PID, SPM.replace("+0200", "-1130"), ORC, OBR))
    assert found.collected_at == datetime(2026, 5, 4, 8, 30, tzinfo=timezone(-timedelta(hours=11, minutes=30)))


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *((name, "utf-8") for name in ("UTF-8", "utf-8", "UTF8", "UNICODE", "Unicode UTF-8")),
        *((name, "latin-1") for name in ("ISO-8859-1", "8859-1", "ISO8859/1", "iso-8859-1", "LATIN1")),
        *((name, "cp1252") for name in ("WINDOWS-1252", "windows-1252", "CP1252")),
        ("ISO-8859-15", "iso8859-15"),
        ("US-ASCII", "ascii"),
    ],
)
def test_character_sets_have_many_names(name: str, codec: str) -> None:
    family = "Muller" if codec == "ascii" else "Müller"
    (found,) = read(order(PID.replace("Muster", family), SPM, ORC, OBR, f18=name).encode(codec))
    assert found.patient.family == family


@pytest.mark.parametrize(
    ("born", "date_found"), [("19640800", None), ("19640000", None), ("00000000", None), ("196408", None)]
)
def test_a_birth_date_may_be_partly_unknown(born: str, date_found: date | None) -> None:
    (found,) = read(order(PID.replace("19640812", born), SPM, ORC, OBR))
    assert found.patient.birth_date == date_found


@pytest.mark.parametrize(
    ("sent", "stored", "warns"), [("f", "F", False), ("W", "U", True), ("D", "U", True), ("I", "U", True)]
)
def test_an_unknown_sex_is_stored_as_unknown_with_a_warning(sent: str, stored: str, warns: bool) -> None:
    message = order(PID.replace("|F", f"|{sent}"), SPM, ORC, OBR)
    found = read_message(message)
    assert found.orders[0].patient.sex == stored
    assert [(each.code, each.location) for each in found.warnings] == [("103", "PID^1^8")] * warns
    answered = hl7.parse(answer(message))
    assert str(answered.segments("MSA")[0][1]) == "AA"
    assert [str(each[4]) for each in answered.segments("ERR")] == ["W"] * warns if warns else "ERR" not in str(answered)


@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\r", b"\r\n\xef\xbb\xbf\r"])
def test_what_stands_before_the_message_is_passed_over(before: bytes) -> None:
    assert read(before + order(PID, SPM, ORC, OBR).encode())[0].number == "M26-0042"


@pytest.mark.parametrize("code", ["SC", "SN", "NA", "CN", "OK"])
def test_a_code_that_asks_for_nothing_is_acknowledged_and_ignored(code: str) -> None:
    message = order(PID, SPM, f"ORC|{code}|P-77", OBR)
    assert read(message) == []
    assert "MSA|AA|" in answer(message)


def test_services_and_specimens_of_others_are_set_aside() -> None:
    iron = "OBR|2|P-77|F-13|IRON^Iron stain^99LAB"
    message = order(PID, SPM, ORC, OBR, "ORC|NW|P-77|F-13", iron)
    found = read_message(message, services=frozenset({"BMDIFF^99LAB"}))
    assert [each.order.service_code for each in found.orders] == ["BMDIFF"]
    assert [(each.reason, each.location) for each in found.warnings] == [
        ("set aside: not a service of this laboratory", "OBR^2^4")
    ]
    assert len(read_message(message, services=frozenset({"BMDIFF", "IRON"})).orders) == 2
    assert read_message(message, services=frozenset({"BMDIFF^OTHER"})).orders == []
    blood = order(PID, SPM.replace("MAR^Marrow", "BLD^Blood"), ORC, OBR)
    assert read_message(blood, specimen_types=frozenset({"MAR", "BMA"})).orders == []


def test_the_number_of_the_preferred_type_is_the_patients() -> None:
    two = PID.replace("100234^^^HOSPITAL^MR", "756.1^^^AHV^SS~100234^^^HOSPITAL&1.2.3&ISO^MR")
    patient = read(order(two, SPM, ORC, OBR))[0].patient
    assert (patient.identifier, patient.authority) == ("100234", "HOSPITAL")
    assert [each.type for each in patient.numbers or ()] == ["SS", "MR"]
    assert (patient.numbers or ())[1].universal_id == "1.2.3"
    assert read_message(order(two, SPM, ORC, OBR), patient_number="AHV").orders[0].patient.identifier == "756.1"
    assert read_message(order(two, SPM, ORC, OBR), patient_number="1.2.3").orders[0].patient.identifier == "100234"


def test_fields_of_the_order_are_kept_whole_whatever_the_delimiters() -> None:
    obr = "OBR|1|P-77^HIS^1.2&3^ISO|F-12|BM^Mark^99X^A^Alt\\T\\b^L||||||||||||4711^Arzt^Eva~4712"
    found = read(order(f"{PID}||||||||||ACC^^^HOSPITAL", SPM, "ORC|NW|P-77^HIS|F-12||GRP", obr))[0]
    assert (found.order.as_ordered or {})["OBR-2"] == "P-77^HIS^1.2&3^ISO"
    assert (found.order.as_ordered or {})["OBR-4"] == "BM^Mark^99X^A^Alt\\T\\b^L"
    assert (found.order.as_ordered or {})["OBR-16"] == "4711^Arzt^Eva~4712"
    assert ((found.order.as_ordered or {})["PID-18"], (found.order.as_ordered or {})["ORC-2"]) == (
        "ACC^^^HOSPITAL",
        "P-77^HIS",
    )
    marks = str.maketrans({"^": "$", "~": "%", "\\": "#", "&": "!"})
    other = order(PID, SPM, ORC, "OBR|1|P-77|F-12|BM^a^b\\S\\c").translate(marks)
    assert (read(other)[0].order.as_ordered or {})["OBR-4"] == "BM^a^b$c"


def test_a_batch_is_answered_message_by_message() -> None:
    one, two = order(PID, SPM, ORC, OBR), order(PID, SPM, ORC, OBR, f10="ORD-2")
    batch = "\r".join(["FHS|^~\\&|LIS", "BHS|^~\\&|LIS", one.strip(), two.strip(), "BTS|2", "FTS|1", ""]).encode()
    assert [read_header(each).control_id for each in messages_of(batch)] == ["ORD-1", "ORD-2"]
    assert messages_of(one.encode()) == [one.encode()]
    assert messages_of(b"FHS|^~\\&|LIS\rFTS|0\r") == [b"FHS|^~\\&|LIS\rFTS|0\r"]


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_a_batch_never_cuts_a_field_off(end: str) -> None:
    whole = order(PID, SPM, ORC, OBR)
    cut = whole.replace("Muster", "Mus\nter")
    batch = "".join(["FHS|^~\\&|LIS\r", "BHS|^~\\&|LIS\r", cut, "BTS|1\r", "FTS|1\r"]).replace("\r", end)
    (message,) = messages_of(batch.encode())
    assert (refused(message).code, refused(message).location) == ("102", "PID^1")


@pytest.mark.parametrize("blank", ["\n", "\n\n", "\r\n", " ", "\t "])
@pytest.mark.parametrize("batched", [False, True])
def test_no_segment_is_overlooked_behind_a_blank_line(blank: str, batched: bool) -> None:
    second = ["ORC|NW|P-78|F-13", "OBR|2|P-78|F-13|IRON^Iron stain^99LAB"]
    message = order(PID, SPM, ORC, OBR, blank + second[0], blank + second[1])
    raw = f"FHS|^~\\&|LIS\r{blank}{message}FTS|1\r" if batched else message
    (each,) = messages_of(raw.encode())
    assert [found.order.filler_number for found in read(each)] == ["F-12", "F-13"]


@pytest.mark.parametrize("digits", ["1", "1234", "123456", "123456789"])
def test_a_fraction_of_a_second_goes_back_as_hl7_allows(digits: str) -> None:
    (found,) = read(order(PID, SPM.replace("20260504083000", f"20260504083000.{digits}"), ORC, OBR))
    assert found.collected_at == COLLECTED.replace(microsecond=int(digits.ljust(6, "0")[:6]))
    assert (found.order.as_ordered or {})["SPM-17"] == f"20260504083000.{digits[:4]}+0200"
