"""TLS on the way to PostgreSQL: which `sslmode` a connection has, and what its refusal means.

libpq's own default, prefer, falls back to plain text without a word. Here a server on another machine is spoken to by
TLS unless the settings say otherwise. Pure: no connection is made.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.engine import URL

from service.config.urls import is_loopback

#: Modes that try TLS and go on without it.
_FALL_BACK = ("allow", "prefer")


class UnsafeConnection(ValueError):
    """The way to the server that the settings ask for contradicts itself, or may fall back to plain text."""


def secured(url: URL, sslmode: str | None = None, authority: Path | None = None) -> URL:
    """The URL with an `sslmode`, and with what certificates are verified by.

    Args:
        sslmode: of the settings; else that of the URL, of PGSSLMODE, or the default: verify-full with an authority,
            require to another machine, libpq's own to this one.
        authority: PEM file of the settings; else the URL's sslrootcert or libpq's own file, or the system's.

    Raises:
        UnsafeConnection: two modes are named, or one that falls back to plain text on the way to another machine.
    """
    named = _one(url, "sslmode")
    if sslmode and named and sslmode != named:
        raise UnsafeConnection(f"its URL says sslmode={named} and the setting {sslmode}: name one")
    mode = sslmode or named or os.environ.get("PGSSLMODE")
    if mode is None:
        mode = "verify-full" if authority else None if _is_here(url) else "require"
    if mode in _FALL_BACK and not _is_here(url):
        raise UnsafeConnection(f"sslmode={mode} falls back to plain text; choose require, verify-full, or disable")
    if mode == "disable" and authority:
        raise UnsafeConnection("sslmode=disable verifies no certificate, and an authority for it is named")
    query = {} if mode is None else {"sslmode": mode}
    if authority:
        query["sslrootcert"] = str(authority)
    elif mode == "verify-full" and not (_one(url, "sslrootcert") or _libpq_has_an_authority()):
        query["sslrootcert"] = "system"
    return url.update_query_dict(query)


def refusal(said: str) -> str | None:
    """What libpq's words on a failed connection mean, where TLS is the reason; None where it is not."""
    if "server does not support SSL" in said:
        return "the server speaks no TLS; switch it on, or accept plain text: MARROWLENS_LIS_DATABASE_SSLMODE=disable"
    wrong_name, no_file = "server certificate for" in said, "root certificate file" in said
    if wrong_name or no_file or ("SSL error:" in said and "unexpected eof" not in said):
        return "the server's certificate is not verified; MARROWLENS_LIS_DATABASE_CA names the authority for it"
    return None


def _is_here(url: URL) -> bool:
    """Whether every server that the URL names is on this machine: by loopback, or by a Unix socket."""
    if "service" in url.query or os.environ.get("PGSERVICE"):  # named in a file of libpq's own
        return False
    return all(not host or host[0] in "/@" or is_loopback(host) for host in _hosts(url))


def _hosts(url: URL) -> Iterator[str]:
    named = _all(url, "hostaddr") or os.environ.get("PGHOSTADDR") or url.host or _all(url, "host")
    yield from (named or os.environ.get("PGHOST", "")).split(",")


def _all(url: URL, name: str) -> str:
    found = url.query.get(name, "")
    if isinstance(found, str):
        return found
    # Of several hosts SQLAlchemy takes a port each: host=a:5432&host=b:5433.
    return ",".join(each if each.startswith("/") else each.rpartition(":")[0] or each for each in found)


def _one(url: URL, name: str) -> str | None:
    found = url.query.get(name)
    return found if found is None or isinstance(found, str) else found[-1]


def _libpq_has_an_authority() -> bool:
    return bool(os.environ.get("PGSSLROOTCERT")) or Path("~/.postgresql/root.crt").expanduser().exists()
