"""Reads acknowledgements of sent messages: MSA and ERR. Pure, no I/O.

MSH-12 is not checked: receivers write the version they were built for.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from service.lis.exchange.hl7.ack_builder import ERROR_CODES
from service.lis.exchange.hl7.encoding import codec_of
from service.lis.exchange.hl7.reader import Header, MessageRejected, Segment, read_header, read_segments
from service.lis.exchange.transport import NoAnswer, Rejected

TAKEN = ("AA", "CA")
#: Characters of the receiver's text that are kept with a dead letter; the whole answer is kept beside it.
MAX_TEXT = 500
CODES = ("AA", "AE", "AR", "CA", "CE", "CR")


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A received acknowledgement; `about` is MSA-2, the control id of the acknowledged message."""

    header: Header
    code: str
    about: str
    errors: tuple[str, ...]
    text: str
    reply: str

    @property
    def final(self) -> bool:
        """Whether no other acknowledgement follows: an application acknowledgement, or a rejection. CA never is."""
        return self.code != "CA"

    @property
    def wants_accept_ack(self) -> bool:
        """Whether it requests an accept acknowledgement itself (enhanced mode)."""
        return self.header.accept_ack in ("AL", "SU")

    def raise_for_rejection(self) -> None:
        """Return if the message was accepted.

        Raises:
            Rejected: it was not. The reason has codes and positions only; `text` has what MSA-3 and ERR say.
        """
        if self.code not in TAKEN:
            unnamed = "no error code, only a text" if self.text else "no reason given"
            raise Rejected("; ".join([self.code, *(self.errors or [unnamed])]), self.reply, self.text)


def parse_acknowledgement(raw: bytes, charset: str) -> Acknowledgement:
    """Parse an acknowledgement.

    Args:
        charset: for an acknowledgement without MSH-18.

    Raises:
        NoAnswer: the bytes are no acknowledgement.
    """
    try:
        header = read_header(raw)
        codec = codec_of(header.charset or charset) or codec_of(charset) or "utf-8"
        reply = raw.decode(codec, "replace").replace("\ufffd", "?")
        segments = read_segments(reply.encode(), "UNICODE UTF-8", ("MSA", "ERR"))
    except MessageRejected as rejected:
        raise NoAnswer(f"the answer is not HL7: {rejected.reason}") from None
    msa = next((each for each in segments if each.name == "MSA"), None)
    if msa is None or msa.get(1) not in CODES:
        raise NoAnswer("the answer is not an acknowledgement")
    found = [each for each in segments if each.name == "ERR"]
    errors = tuple(map(_error, found))
    return Acknowledgement(header, msa.get(1), msa.get(2), errors, _text(msa, found), reply)


def _text(msa: Segment, errors: Sequence[Segment]) -> str:
    """What the receiver says: MSA-3, and of each ERR the user message, the diagnostic text, or the text of its code."""
    said = [msa.get(3)]
    for err in errors:
        said += [err.get(8), err.get(7)] if err.get(8) or err.get(7) else [err.get(3, 2) or err.get(1, 4, 2)]
    return " ".join("; ".join(dict.fromkeys(each for each in said if each)).split())[:MAX_TEXT]


def _error(err: Segment) -> str:
    """Code and position of an ERR, of 2.5 or earlier; never its text, which may quote the message."""
    code = err.get(3) or err.get(1, 4)
    place = [err.get(2, part) for part in (1, 2, 3)] if err.get(3) else [err.get(1, part) for part in (1, 2, 3)]
    where = "^".join(part for part in place if part)
    named = (
        f"{code} {ERROR_CODES[code].lower()}" if code in ERROR_CODES else "an error without a code of HL7 table 0357"
    )
    return f"{named} at {where}" if re.fullmatch(r"[A-Z][A-Z0-9]{2}(\^\d{1,4}){0,2}", where, re.ASCII) else named
