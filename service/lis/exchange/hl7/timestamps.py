"""Dates and times of HL7 v2 (DT, TS, DTM) with their precision and offset. Pure: no I/O, no clock."""

import re
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo

_PARTS = re.compile(
    r"(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.(\d{1,9}))?)?)?)?)?)?([+-]\d{4})?", re.ASCII
)
#: Defaults of missing parts, from the year to the second.
_LEAST = (0, 1, 1, 0, 0, 0)


def format_timestamp(moment: datetime) -> str:
    """A timestamp (TS) in UTC: YYYYMMDDHHMMSS+0000."""
    return re.sub("[-:T]", "", moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds")) + "+0000"


def format_date(day: date) -> str:
    """A date (DT): YYYYMMDD."""
    return day.isoformat().replace("-", "")


def parse_timestamp(value: str, zone: tzinfo | None) -> datetime:
    """A timestamp with at least a day, in its time zone. Missing parts are zero.

    Args:
        zone: for a timestamp without one; None is this machine's.

    Raises:
        ValueError: an invalid timestamp, or one without a day. The text never quotes the value.
    """
    found = _PARTS.fullmatch(value)
    if not found or not found[3]:
        raise ValueError("not an HL7 timestamp with at least a day")
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    fraction = int((found[7] or "").ljust(6, "0")[:6])
    try:
        offset = _offset(found[8]) if found[8] else None
        moment = datetime(year, month, day, hour, minute, second, fraction, offset or zone)
        return moment if moment.tzinfo else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("invalid date or time") from None


def utc_offset(value: str, zone: tzinfo | None) -> str:
    """The offset of a timestamp without one, +HHMM or -HHMM. Local mean times of the past are cut to the minute.

    Raises:
        ValueError: as `parse_timestamp`.
    """
    ahead = parse_timestamp(value, UTC) - parse_timestamp(value, zone)
    hours, minutes = divmod(int(abs(ahead).total_seconds()) // 60, 60)
    return f"{'-' if ahead < timedelta() else '+'}{hours:02}{minutes:02}"


def with_valid_fraction(value: str) -> str:
    """A timestamp with at most four digits of a second: HL7 allows no more, and some systems send six."""
    return re.sub(r"(\.\d{4})\d+", r"\1", value)


def is_date(value: str) -> bool:
    """Whether a timestamp has a day and no time."""
    found = _PARTS.fullmatch(value)
    return bool(found and found[3] and not found[4])


def lacks_day(value: str) -> bool:
    """Whether a timestamp says only a year, or a year and a month."""
    found = _PARTS.fullmatch(value)
    return bool(found and not found[3] and 1 <= int(found[2] or 1) <= 12)


def parse_zone(value: str) -> tzinfo | None:
    """The time zone of a timestamp; None if it has none, or is no timestamp.

    Raises:
        ValueError: an invalid time zone. The text never quotes the value.
    """
    found = _PARTS.fullmatch(value)
    return _offset(found[8]) if found and found[8] else None


def _offset(text: str) -> timezone:
    """+HHMM or -HHMM; ValueError beyond a day."""
    hours, minutes = int(text[1:3]), int(text[3:])
    if hours > 23 or minutes > 59:
        raise ValueError("invalid time zone")
    ahead = timedelta(hours=hours, minutes=minutes)
    return timezone(-ahead if text[0] == "-" else ahead)


def parse_date(value: str) -> date | None:
    """A date; None if day or month are missing or zero, which many systems write for unknown.

    Raises:
        ValueError: an invalid date. The text never quotes the value.
    """
    found = _PARTS.fullmatch(value)
    if not found:
        raise ValueError("not an HL7 date")
    if "00" in (found[2], found[3]):
        return None
    try:
        parts = zip(found.groups()[:6], _LEAST, strict=True)
        year, month, day, hour, minute, second = (int(part or least) for part, least in parts)
        moment = datetime(year, month, day, hour, minute, second, tzinfo=_offset(found[8]) if found[8] else None)
    except ValueError:
        raise ValueError("invalid date") from None
    return moment.date() if found[3] else None
