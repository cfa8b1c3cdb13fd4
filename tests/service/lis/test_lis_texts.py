"""Any Unicode text in any field of a report: no message gets an extra field, segment or control character."""

import json
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from laboratory import code_of, report, report_of_words

from examples import examples
from service.config.lis import LisSettings
from service.lis.domain.report import Cellularity, MegakaryocyteAssessment, Report
from service.lis.exchange.astm import records
from service.lis.exchange.astm.records import frames, latin
from service.lis.exchange.fhir import bundle
from service.lis.exchange.fhir.datatypes import text as fhir_text
from service.lis.exchange.hl7.encoding import CODECS, components, encode, normalize_line_breaks, segment, text, unescape
from service.lis.exchange.hl7.results import encode_report

SENT = report().created_at
#: Every character of every kind: halves of surrogate pairs, codes that are no characters, and what looks like ours.
WORDS = st.text(
    st.characters()
    | st.sampled_from("|^&~\\｜＾＆～＼﹠﹨ˆ⁴≠ﬁ\x00\x02\x03\x04\x05\x0b\x17\x1c\r\n\x85\u2028\ud800\ufffe")
)
EVERYTHING = list(map(chr, range(sys.maxunicode + 1)))
FIRST_PLANE, OTHER_PLANES = range(0, 0x10000, 4096), range(0x10000, len(EVERYTHING), 4096)
NAMES = ("identifier", "authority", "family", "given", "placer", "filler", "code", "name", "system", "number")
NAMES += ("signed_by", "comment", "correction", "model", "version", "remark", "excuse")


def said(words: dict[str, str]) -> Report:
    """A report with these words in every field that a person or another system fills."""
    cellularity = Cellularity.model_construct(grade="normal", remark=words["remark"])
    megakaryocytes = MegakaryocyteAssessment.model_construct(grade="not_assessed", remark=words["excuse"])
    return report_of_words(words, words["model"], cellularity=cellularity, megakaryocyte_assessment=megakaryocytes)


#: Never empty: an empty field at the end of a segment is left away.
FILLED = st.fixed_dictionaries({name: WORDS.map(lambda words: f"{words}.") for name in NAMES})
PLAIN = dict.fromkeys(NAMES, "x")


def shape(found: Any) -> Any:
    """A document without its words: names, order and kinds alone."""
    if isinstance(found, dict):
        return {name: shape(part) for name, part in found.items()}
    return [shape(part) for part in found] if isinstance(found, list) else type(found).__name__


def sent(words: dict[str, str], charset: str) -> bytes:
    own = LisSettings(hl7_charset=charset)
    return encode(encode_report(said(words), code_of, own, control_id="1", sent_at=SENT), charset)


@settings(max_examples=examples(60))
@given(FILLED, st.sampled_from(["", "ASCII", "8859/1", "8859/5", "8859/15", "UNICODE UTF-8"]))
def test_no_text_changes_the_segments_fields_or_components_of_hl7(words: dict[str, str], charset: str) -> None:
    found, plain = sent(words, charset), sent(PLAIN, charset)
    for mark in (b"\r", b"|", b"^", b"~", b"&", b"\x0b", b"\x1c", b"\n"):
        assert found.count(mark) == plain.count(mark), mark
    assert not [byte for byte in found.replace(b"\r", b"") if byte < 0x20 or byte == 0x7F]


@pytest.mark.parametrize("blocks", [FIRST_PLANE, pytest.param(OTHER_PLANES, marks=pytest.mark.slow)])
@pytest.mark.parametrize("charset", sorted(CODECS))
def test_every_character_stands_in_hl7_as_itself_or_as_a_question_mark(charset: str, blocks: range) -> None:
    codec = CODECS[charset]
    for start in blocks:
        chars = EVERYTHING[start : start + blocks.step]
        data = encode(segment("ZZZ", {1: components(*(f"{char}." for char in chars)), 2: text("end")}), charset)
        name, field, end = data.decode(codec, "surrogatepass").split("|")
        assert (name, end, field.count("&"), field.count("~")) == ("ZZZ", "end", 0, 0)
        for char, came in zip(chars, field.split("^"), strict=True):
            wanted = normalize_line_breaks(char if codec == "utf-8" else unicodedata.normalize("NFC", char))
            kept = unescape(came, codec=codec)
            # Of the controls of Latin-1 some sets have no code, and their escape says the character's own.
            assert kept in (f"{wanted}.", f"{wanted.encode(codec, 'replace').decode(codec)}.")


@settings(max_examples=examples(60))
@given(FILLED)
def test_no_text_changes_the_records_fields_or_components_of_astm(words: dict[str, str]) -> None:
    one_line = words | {name: " ".join(words[name].splitlines()) for name in ("comment", "correction")}
    found = records.encode_report(said(one_line), code_of, records.AstmForm(), "c-1")
    plain = records.encode_report(said(PLAIN), code_of, records.AstmForm(), "c-1")
    data = b"".join(frames(found))
    for mark in ("\r", "|", "^", "\\"):
        assert found.count(mark) == plain.count(mark), mark
    assert not [char for char in found.replace("\r", "") if ord(char) < 32 or 127 <= ord(char) < 160]
    for record in found.split("\r")[1:-1]:
        assert record.encode("latin-1")[:200] in data
    assert records.plain(found.split("\r")[2].split("|")[2]) == latin(words["number"])


def test_every_character_stands_in_astm_as_its_fold() -> None:
    for start in range(0, len(EVERYTHING), 4096):
        words = ".".join(EVERYTHING[start : start + 4096])
        written = records.escaped(words)
        assert records.plain(written) == latin(words) == latin(latin(words))
        assert latin(words).count(".") >= 4095  # U+2024 and the like are no full stops, but those of another width are
        assert not [char for char in written if char in "|^\\" or ord(char) < 32 or 127 <= ord(char) < 160]
        assert written.encode("latin-1") in _joined(frames(f"{written}\r"))


def _joined(sent: Iterator[bytes]) -> bytes:
    """What the frames of one record carry."""
    return b"".join(frame[2:-5] for frame in sent)


@pytest.mark.parametrize(
    ("words", "fold"),
    [
        ("a｜b＾c＆F＆d＼e﹠﹨", "a|b^c&F&d\\e&\\"),
        ("Ｍ２６", "M26"),
        ("Dvo\u0159ák, r\u030c", "Dvorák, r"),
        ("10⁴ ≠ ≮ ⅓ ① ﬁ Ⅷ", "10? ? ? ? ? ? ?"),
        ("a\x85b\u2028c\x9bd\x7f\x02\x03\x17", "a b c d    "),
    ],
)
def test_astm_folds_before_it_escapes_and_never_to_another_value(words: str, fold: str) -> None:
    assert latin(words) == fold
    assert not set(records.escaped(words)) & set("|^\\")


def test_a_message_that_an_earlier_version_wrote_gets_no_delimiter_in_its_frame() -> None:
    (frame,) = frames("P|1|100234｜6|||M＾x\r")
    assert frame[1:-6] == b"1P|1|100234?6|||M?x"


@settings(max_examples=examples(40))
@given(FILLED)
@example(PLAIN | {"signed_by": "\ud800."})
def test_no_text_changes_the_shape_of_a_bundle(words: dict[str, str]) -> None:
    form = bundle.FhirForm("urn:lab:codes")
    found = orjson.loads(bundle.encode_report(said(words), code_of, form))
    assert shape(found) == shape(orjson.loads(bundle.encode_report(said(PLAIN), code_of, form)))
    written = json.dumps(found, ensure_ascii=False)
    assert not [code for code in ("\\u00", "\\ud", "\ufffe", "\uffff", '"div"') if code in written]
    patient = found["entry"][0]["resource"]
    assert patient["name"] == [{"family": fhir_text(words["family"]), "given": [fhir_text(words["given"])]}]
    assert patient["identifier"][0]["value"] == fhir_text(words["identifier"])


def test_every_character_stands_in_a_bundle_as_itself_or_as_the_replacement_character() -> None:
    for char in EVERYTHING:
        came = fhir_text(char)
        assert came in (char, " ", "\ufffd")
        assert came.encode()
    kept = "".join(char for char in EVERYTHING if fhir_text(char) == char)
    assert not [char for char in kept if char != "\t" and char not in "\r\n" and (ord(char) < 32 or char == "\x7f")]
