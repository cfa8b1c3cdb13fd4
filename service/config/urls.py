"""Checks of hosts and URLs, and URLs without their credentials for logs and errors."""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

#: From the scheme to the last @ before a space: an unescaped password may itself hold / or @.
_USER = re.compile(r"(?<=://)[^\s]*@")
_QUERY = re.compile(r"(?<=[?#])[^\s]+")
#: One slash is enough: pathlib has collapsed the two of a URL.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
MASK = "***"


@lru_cache(maxsize=64)  # called with the Host header of every request
@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether a host is this machine: a loopback address, with or without zone and brackets, or `localhost`.

    Other names are not resolved.
    """
    try:
        return ip_address(host.strip("[]").split("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_name(host: str) -> str:
    """The name in a `Host` header, without the port."""
    return host.lower() if host.endswith("]") else host.lower().rpartition(":")[0] or host.lower()


def split_or_nothing(url: str) -> SplitResult:
    """The parts of a URL; empty parts if it is none, as `http://[` is."""
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult("", "", "", "", "")


def transport_fault(url: str) -> str | None:
    """Why credentials must not be sent to this URL; None for https, and for http to this machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("https", "http") or not host:
        return "is not an http or https URL"
    if parts.scheme == "http" and not is_loopback(host):
        return "is plain http to another machine: use https"
    return None


def key_source_fault(url: str) -> str | None:
    """Why signing keys must not be fetched from this URL; None if they may."""
    if fault := transport_fault(url):
        return fault
    return "holds a user name or a password: remove it" if "@" in urlsplit(url).netloc else None


def paths_holding_urls(values: Iterable[tuple[str, object]]) -> list[str]:
    """Names of path settings that hold a URL. Paths are printed in messages, and a URL could hold a password."""
    return [name for name, value in values if isinstance(value, Path) and _SCHEME.match(str(value))]


def redact_url(text: str) -> str:
    """The text with the user name, password, query and fragment of its URL replaced by `***`."""
    if "://" not in text:
        return text
    return _QUERY.sub(MASK, _USER.sub(f"{MASK}@", text))
