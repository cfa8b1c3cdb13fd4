"""Malformed and oversized HTTP requests: paths, types, headers, framing."""

from random import Random

from stress.attacks.case import CANARY, Case, sends
from stress.clients.pictures import picture
from stress.clients.wire import head, post

_SEGMENTS = (
    *("v2", "models", "marrowlens", "versions", "1", "infer", "ready", "health", "live", "repository", "index"),
    *("classify", "batch", "docs", "static", "model", "metrics", "classes", "openapi.json", "admin", ".git", ".env"),
    *("..", "...", ".", "", "%2e%2e", "%2f", "%00", "%", "%zz", "%ff%fe", "..%5c", "~", "*", ";a=b", "a" * 300),
    *("etc", "passwd", "proc", "self", "environ", CANARY, "%F0%9F%92%A9", "<script>", "'--", "${jndi:ldap}"),
)
_QUERIES = (
    *("", "?", "?maps=", "?maps=none&maps=none", "?maps=attention,,", "?top_k=-1", "?top_k=9999999999999999999"),
    *(
        "?top_k=1e3",
        "?top_k=NaN",
        "?map_format=%00",
        f"?{CANARY}=1",
        "?maps=" + "attention," * 3000,
        "?a=" + "b" * 9000,
    ),
    *("?top_k=%D9%A3", "?" + "&".join(f"a{at}=b" for at in range(2000)), "?%ff", "?maps=none;top_k=2", "?=", "?&&&"),
)
_METHODS = (
    *("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "PURGE", "LOCK"),
    *("get", "P", "QUERY", "POST" * 50, "G\tT", "Ä"),
)


def path(family: str, chance: Random) -> Case:
    """Requests to unknown paths, as for other servers, with odd methods and queries."""
    target = "/" + "/".join(chance.choices(_SEGMENTS, k=chance.randint(1, 7))) + chance.choice(_QUERIES)
    if chance.random() < 0.2:
        target = chance.choice(("*", "http://elsewhere/classify", "//elsewhere/", "classify", "/" * 3000, "?", "#a"))
    method = chance.choice(_METHODS)
    close = [("Connection", "close"), ("Content-Length", "0")]  # HEAD and CONNECT have answers without an end
    # A method or target that HTTP does not know may end in a closed connection.
    return sends(family, f"{method[:10]} {target[:60]}", head(method, target, close), may_close=True)


_TYPES = (
    *("", "image", "image/", "/", "image/png; charset=utf-8", "IMAGE/PNG", "image/png, image/jpeg", "image/*", "*/*"),
    *("application/json", "application/octet-stream", "text/html", "multipart/form-data", "multipart/mixed"),
    *("multipart/form-data; boundary=", 'multipart/form-data; boundary="', "application/zip", "application/gzip"),
    *("application/x-tar", "application/x-7z-compressed", "application/x-www-form-urlencoded", "video/mp4"),
    *("image/png\x00", "image/png; " + "a=b;" * 5000, CANARY, "image/" + "a" * 60_000, "ÿ/ÿ", "a;b;c", ";"),
)
_ENCODINGS = ("gzip", "br", "deflate", "identity", "chunked", "zstd", "gzip, gzip", "", CANARY, "a" * 10_000)


def content_type(family: str, chance: Random) -> Case:
    """A valid picture, or the beginning of a valid archive, with a wrong or unknown type."""
    kind = chance.choice(_TYPES)
    target = chance.choice(("/classify", "/classify/batch", "/model", "/metrics", "/health/live"))
    more = [("Content-Encoding", chance.choice(_ENCODINGS))] if chance.random() < 0.3 else []
    body = chance.choice((picture(1), b"", b"PK\x03\x04", b"{}", b"\0" * 5000))
    return sends(family, f"{kind[:40]!r} to {target}", post(target, kind, body, more), may_close="\0" in kind)


def flood(family: str, chance: Random) -> Case:
    """Oversized request heads."""
    count, length = chance.choice(((100, 50), (1000, 50), (20_000, 20), (1, 60_000), (1, 2_000_000), (30, 60_000)))
    shape = chance.choice(("headers", "one header again and again", "cookies", "target"))
    if shape == "target":
        return sends(family, f"a target of {count * length}", head("GET", "/" + "a" * count * length), may_close=True)
    name = {"headers": "X-{}", "cookies": "Cookie", "one header again and again": "Accept"}[shape]
    headers = [(name.format(at), f"{CANARY}{at}" + "a" * length) for at in range(count)]
    return sends(family, f"{shape}: {count} of {length}", head("GET", "/health/live", headers), may_close=True)


_HEAD = "POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
_FRAMES = (
    "Content-Length: -1\r\n\r\n",
    "Content-Length: 99999999999999999999999\r\n\r\n",
    "Content-Length: 9223372036854775807\r\n\r\n",
    "Content-Length: 0x10\r\n\r\n",
    "Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    "Content-Length: 5, 5\r\n\r\nabcde",
    "Content-Length: +5\r\n\r\nabcde",
    "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n5;" + "a=b;" * 5000 + "\r\nabcde\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\nX-Trailer: a\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n" + "1\r\na\r\n" * 20_000 + "0\r\n\r\n",
    "Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    "Expect: 200-ok\r\nContent-Length: 3\r\n\r\nabc",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: a\r\nContent-Length: 0\r\n\r\n",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: a\r\nContent-Length: 0\r\n\r\n",
    "X-Request-ID: " + CANARY + "\x01\r\nContent-Length: 0\r\n\r\n",
    "X-Request-Timeout-Ms: 99999999999999999999999999\r\nContent-Length: 0\r\n\r\n",
    "X-Folded: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "No colon\r\n\r\n",
    ": no name\r\nContent-Length: 0\r\n\r\n",
    "Bad name : a\r\nContent-Length: 0\r\n\r\n",
    "Content-Length: 0\r\nConnection: close, keep-alive\r\n\r\n",
)
_WHOLE = (
    b"GET /health/live\r\n\r\n",
    b"GET /health/live HTTP/1.0\r\n\r\n",
    b"GET /health/live HTTP/9.9\r\n\r\n",
    b"GET /health/live HTTP/1.1\n\n",
    b"GET  /health/live  HTTP/1.1\r\n\r\n",
    b"\r\n\r\n\r\nGET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    b"\x05\x01\x00",
    b"SSH-2.0-a\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100,
    b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nHost: b\r\n\r\n",
    b"\0" * 1000,
    b"\xff" * 100_000,
)


def framing(family: str, chance: Random) -> Case:
    """Contradictory lengths, invalid chunks, other protocols."""
    if chance.random() < 0.25:
        request = chance.choice((*_WHOLE, chance.randbytes(chance.randint(1, 2000))))
    else:
        request = (_HEAD + chance.choice(_FRAMES)).encode("latin-1")
    # Some of these say that more will come, and are waited for.
    return sends(family, repr(request[:120]), request, may_close=True, slow=True)
