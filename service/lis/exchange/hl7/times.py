"""Dates and times as HL7 v2 writes them (types DT, TS and DTM). Pure: no clock.

Knows digits and zones. Does not know what happened then.
"""

import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo

_PARTS = re.compile(
    r"(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,4}))?)?)?)?)?)?([+-]\d{4})?", re.ASCII
)
#: What a part that is not said stands for, from the year to the second.
_LEAST = (0, 1, 1, 0, 0, 0)


def written(moment: datetime) -> str:
    """To the second, in UTC, and saying so."""
    return re.sub("[-:T]", "", moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds")) + "+0000"


def day_written(day: date) -> str:
    """YYYYMMDD."""
    return day.isoformat().replace("-", "")


def read_moment(value: str, zone: tzinfo | None) -> datetime:
    """A time of at least a day's precision, in its zone; what is not said is zero.

    Args:
        zone: where a time without a zone was written; None is this machine's.

    Raises:
        ValueError: no such time, or less than a day's precision. Its text is never the value.
    """
    found = _PARTS.fullmatch(value)
    if not found or not found[3]:
        raise ValueError("no time of HL7 with at least its day")
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    fraction = int((found[7] or "").ljust(6, "0"))
    try:
        offset = _offset(found[8]) if found[8] else None
        moment = datetime(year, month, day, hour, minute, second, fraction, offset or zone)
        return moment if moment.tzinfo else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("no such day or time") from None


def read_zone(value: str) -> tzinfo | None:
    """The zone that a time says it was written in; None when it says none, or is no time.

    Raises:
        ValueError: there is no such zone. Its text is never the value.
    """
    found = _PARTS.fullmatch(value)
    return _offset(found[8]) if found and found[8] else None


def _offset(text: str) -> timezone:
    """+HHMM or -HHMM; ValueError beyond a day."""
    hours, minutes = int(text[1:3]), int(text[3:])
    if hours > 23 or minutes > 59:
        raise ValueError("no such zone")
    ahead = timedelta(hours=hours, minutes=minutes)
    return timezone(-ahead if text[0] == "-" else ahead)


def read_day(value: str) -> date | None:
    """A day; None when only a year or a month is known.

    Raises:
        ValueError: no such day. Its text is never the value.
    """
    found = _PARTS.fullmatch(value)
    if not found:
        raise ValueError("no date of HL7")
    try:
        parts = zip(found.groups()[:6], _LEAST, strict=True)
        year, month, day, hour, minute, second = (int(part or least) for part, least in parts)
        moment = datetime(year, month, day, hour, minute, second, tzinfo=_offset(found[8]) if found[8] else None)
    except ValueError:
        raise ValueError("no such day") from None
    return moment.date() if found[3] else None
