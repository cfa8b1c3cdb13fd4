"""URLs of other machines."""

import re
from collections.abc import Iterable
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

#: From the scheme to the last @ before a space: a password may itself hold / or @, where somebody forgot to escape it.
_USER = re.compile(r"(?<=://)[^\s]*@")
_QUERY = re.compile(r"(?<=[?#])[^\s]+")
#: Of a path too, which has one slash where the URL had two.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
MASK = "***"


def transport_fault(url: str) -> str | None:
    """Why no secret may travel to this URL; None where it may: by https, or to this machine itself."""
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
    """Why no keys may be fetched from this URL; None where they may. Who can change them could let anybody in."""
    return transport_fault(url) or (
        "holds a user name or a password: remove it" if "@" in urlsplit(url).netloc else None
    )


def paths_holding_urls(values: Iterable[tuple[str, object]]) -> list[str]:
    """The names of those values that are URLs where a path of this machine is asked for, of which messages speak."""
    return [name for name, value in values if isinstance(value, Path) and _SCHEME.match(str(value))]


def redact_url(text: str) -> str:
    """The text without the user name, password, query and fragment of the URL in it; unchanged where there is none."""
    if "://" not in text:
        return text
    return _QUERY.sub(MASK, _USER.sub(f"{MASK}@", text))


def is_loopback(host: str) -> bool:
    """Of an address, with a zone or in brackets too, or of the name that always leads here; no other is looked up."""
    try:
        return ip_address(host.strip("[]").split("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"
