"""What a receiver's acknowledgement says about a message of ours. Pure, no I/O.

Knows MSA and ERR. Does not know connections, nor how often a message is sent. MSH-12 is not looked at: receivers write
a version there that they were built with, not the one they got.
"""

import re
from dataclasses import dataclass

from service.lis.exchange.hl7.ack_builder import CONDITIONS
from service.lis.exchange.hl7.encoding import CODECS
from service.lis.exchange.hl7.reader import Header, MessageRejected, Segment, read_header, read_segments
from service.lis.exchange.transport import NoAnswer, Rejected

TAKEN, FINAL = ("AA", "CA"), ("AA", "AE", "AR")
CODES = ("AA", "AE", "AR", "CA", "CE", "CR")


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """An acknowledgement as it came."""

    header: Header
    code: str
    about: str
    errors: tuple[str, ...]
    reply: str

    @property
    def final(self) -> bool:
        """Whether nothing more can follow: an application acknowledgement, or a no."""
        return self.code != "CA"

    @property
    def to_be_accepted(self) -> bool:
        """Whether it asks for an accept acknowledgement itself, as in enhanced mode it may."""
        return self.header.accept_ack in ("AL", "SU")

    def judge(self) -> None:
        """Nothing, when the message was taken.

        Raises:
            Rejected: it was not. The reason holds codes and places; what the receiver wrote is in `reply`.
        """
        if self.code not in TAKEN:
            raise Rejected("; ".join([self.code, *(self.errors or ["the receiver does not say why"])]), self.reply)


def read_acknowledgement(raw: bytes, charset: str) -> Acknowledgement:
    """An acknowledgement of any message.

    Args:
        charset: of one that does not name its own.

    Raises:
        NoAnswer: these bytes are none.
    """
    try:
        header = read_header(raw)
        named = header.charset if header.charset in CODECS else ""
        reply = raw.decode(CODECS[named or charset], "replace").replace("\ufffd", "?")
        segments = read_segments(reply.encode(), "UNICODE UTF-8", ("MSA", "ERR"))
    except MessageRejected as rejected:
        raise NoAnswer(f"what came back is no HL7: {rejected.reason}") from None
    msa = next((each for each in segments if each.name == "MSA"), None)
    if msa is None or msa.get(1) not in CODES:
        raise NoAnswer("what came back is no acknowledgement")
    errors = tuple(_error(each) for each in segments if each.name == "ERR")
    return Acknowledgement(header, msa.get(1), msa.get(2), errors, reply)


def _error(err: Segment) -> str:
    """Code and place of one ERR, of 2.5 or of before; never the receiver's own words, which may quote the message."""
    code = err.get(3) or err.get(1, 4)
    place = [err.get(2, part) for part in (1, 2, 3)] if err.get(3) else [err.get(1, part) for part in (1, 2, 3)]
    where = "^".join(part for part in place if part)
    named = f"{code} {CONDITIONS[code].lower()}" if code in CONDITIONS else "an error without a code of table 0357"
    return f"{named} at {where}" if re.fullmatch(r"[A-Z][A-Z0-9]{2}(\^\d{1,4}){0,2}", where, re.ASCII) else named
