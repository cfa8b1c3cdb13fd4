"""Hostile archives and forms: path traversal, wrong sizes, damage."""

import io
import struct
import tarfile
import zipfile
from functools import cache
from random import Random

from stress.attacks.case import CANARY, Case, sends
from stress.clients.pictures import BOUNDARY, Named, form, form_type, picture, tarred, zipped
from stress.clients.wire import Headers, post

#: What an escaping member would be called: no file of this name may exist anywhere afterwards.
ESCAPED = f"{CANARY}-escaped"
#: Most parts of one form, and entries of one archive, that the service reads.
MANY = 10_000

NAMES = (
    f"../{ESCAPED}",
    f"../../../../../../../../tmp/{ESCAPED}",
    f"/tmp/{ESCAPED}",
    f"/{ESCAPED}",
    f"//{ESCAPED}",
    f"./././{ESCAPED}",
    f"a/../../{ESCAPED}",
    f"..\\..\\{ESCAPED}",
    f"C:\\{ESCAPED}",
    f"C:{ESCAPED}",
    f"\\\\server\\share\\{ESCAPED}",
    f"file:///tmp/{ESCAPED}",
    f"~/{ESCAPED}",
    f"$HOME/{ESCAPED}",
    f"`touch {ESCAPED}`",
    f"{ESCAPED}\0.jpg",
    f"{ESCAPED}\r\nX-Injected: yes",
    f"{ESCAPED}" + "a" * 5000,
    "a/" * 3000 + ESCAPED,
    f"{ESCAPED}\u202egpj.exe",
    f"{ESCAPED}\udc80",
    f"{ESCAPED}\x1b[31m\x07",
    f"CON/{ESCAPED}",
    "",
    ".",
    "..",
    "/",
    " ",
    "%2e%2e%2f" + ESCAPED,
    "\N{PILE OF POO}" * 60,
)


def archive(family: str, chance: Random) -> Case:
    """An archive of a few members, most of them invalid."""
    make = chance.choice((_zip_of_names, _tar_of_names, _tar_of_kinds, _zip_of_lies, _broken, _broken, _broken))
    what, kind, body = make(chance)
    headers = [("Accept", "application/x-ndjson")] if chance.random() < 0.3 else []
    return sends(family, what, post("/classify/batch?maps=none", f"application/{kind}", body, headers))


def _some(chance: Random) -> list[tuple[str, bytes]]:
    return [(f"{at}.jpg", picture(at)) for at in range(chance.randint(0, 3))]


def _zip_of_names(chance: Random) -> tuple[str, str, bytes]:
    names = chance.choices(NAMES, k=chance.randint(1, 4))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in [*((name, picture(3)) for name in names), *_some(chance)]:
            info = zipfile.ZipInfo("x")
            archive.NameToInfo.clear()  # or zipfile would warn of a name that comes twice
            info.filename = name.replace("\udc80", "?")
            info.external_attr = chance.choice((0, 0o120777 << 16, 0o40777 << 16, 0o104755 << 16))  # links, setuid
            archive.writestr(info, data)
    return f"ZIP with the names {[name[:20] for name in names]}", "zip", file.getvalue()


def _tar_of_names(chance: Random) -> tuple[str, str, bytes]:
    names = chance.choices(NAMES, k=chance.randint(1, 4))
    members = [*((name, picture(3)) for name in names), *_some(chance)]
    return f"tar with the names {[name[:20] for name in names]}", "x-tar", _tar(members, chance)


def _tar(members: Named, chance: Random) -> bytes:
    file = io.BytesIO()
    form = chance.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    with tarfile.open(fileobj=file, mode="w", format=form, errors="surrogatepass") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o4777
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def _tar_of_kinds(chance: Random) -> tuple[str, str, bytes]:
    kinds = chance.choices((*map(bytes, zip(range(48, 56))), b"S", b"x", b"g", b"L", b"K", b"V", b"\xff"), k=3)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for kind in kinds:
            info = tarfile.TarInfo(chance.choice(NAMES[:5]))
            info.type, info.linkname = kind, chance.choice(("/etc/passwd", "../../etc/shadow", ".", info.name))
            info.size, data = (len(picture(1)), picture(1)) if chance.random() < 0.5 else (0, b"")
            info.devmajor, info.devminor = 1, 3
            file.write(info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512))
        for name, data in _some(chance):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return f"tar of the member types {kinds}", "x-tar", file.getvalue()


def _zip_of_lies(chance: Random) -> tuple[str, str, bytes]:
    data = bytearray(zipped([("a.jpg", picture(1)), *_some(chance), ("a.jpg", picture(2))], zipfile.ZIP_DEFLATED))
    entry, end = data.index(b"PK\x01\x02"), data.rindex(b"PK\x05\x06")
    what, at, form, value = chance.choice(
        (
            ("encrypted", entry + 8, "<H", 1),
            ("method", entry + 10, "<H", chance.randrange(100)),
            ("checksum", entry + 16, "<L", chance.getrandbits(32)),
            ("packed size", entry + 20, "<L", chance.getrandbits(chance.choice((8, 16, 32)))),
            ("size", entry + 24, "<L", chance.getrandbits(chance.choice((8, 16, 32)))),
            ("name's length", entry + 28, "<H", chance.getrandbits(16)),
            ("extra field's length", entry + 30, "<H", chance.getrandbits(16)),
            ("member's place", entry + 42, "<L", chance.getrandbits(chance.choice((8, 16, 32)))),
            ("count", end + 8, "<H", chance.getrandbits(16)),
            ("directory's size", end + 12, "<L", chance.getrandbits(chance.choice((8, 16, 32)))),
            ("directory's place", end + 16, "<L", chance.getrandbits(chance.choice((8, 16, 32)))),
            ("comment's length", end + 20, "<H", chance.getrandbits(16)),
        )
    )
    struct.pack_into(form, data, at, value)
    return f"ZIP with a false {what}", "zip", bytes(data)


@cache
def _sound() -> dict[str, tuple[str, bytes]]:
    members = [(f"{at}.png", picture(at, "PNG")) for at in range(3)]
    return {
        "ZIP": ("zip", zipped(members)),
        "deflated ZIP": ("zip", zipped(members, zipfile.ZIP_DEFLATED)),
        "tar": ("x-tar", tarred(members)),
    }


def _broken(chance: Random) -> tuple[str, str, bytes]:
    name, (kind, body) = chance.choice(list(_sound().items()))
    data = bytearray(body)
    way = chance.choice(("cut", "flipped", "flipped", "shifted", "other type"))
    if way == "cut":
        del data[chance.randrange(len(data)) :]
    elif way == "flipped":
        for _ in range(chance.choice((1, 3, 30))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif way == "shifted":
        data[:0] = chance.randbytes(chance.randrange(1000))
    else:
        kind = "x-tar" if kind == "zip" else "zip"
    return f"{name}, {way}", kind, bytes(data)


def multipart(family: str, chance: Random) -> Case:
    """A form with an invalid boundary, header or end."""
    make = chance.choice((_odd_boundary, _odd_header, _odd_header, _odd_header, _broken_form, _broken_form))
    what, kind, body = make(chance)
    target = chance.choice(("/classify", "/classify/batch?maps=none"))
    return sends(family, f"{what}, to {target}", post(target, kind, body))


def many_parts(family: str, chance: Random) -> Case:
    """The maximum number of parts, or one more."""
    count = chance.choice((MANY, MANY + 1))
    content = chance.choice((b"", b"\xff\xd8\xff", b"BM"))
    body = form("images", [("a", content)]).removesuffix(f"--{BOUNDARY}--\r\n".encode()) * count
    body += f"--{BOUNDARY}--\r\n".encode()
    return sends(family, f"{count} parts", post("/classify/batch?maps=none", form_type(), body))


def _odd_boundary(chance: Random) -> tuple[str, str, bytes]:
    boundary = chance.choice(("", "-", "a", "a" * 70, "a" * 5000, "a b", "\x00", "\r\n", "é", '"', "--", "a;b=c"))
    kind = form_type(chance.choice((boundary, f'"{boundary}"', boundary + "x")))
    own = kind.replace("\r", "%0d").replace("\n", "%0a")
    return f"boundary {boundary[:10]!r}", own, form("images", [("a.jpg", picture(1))], boundary)


_PART_HEADERS: tuple[Headers, ...] = (
    [],
    [("Content-Disposition", "form-data")],
    [("Content-Disposition", 'form-data; name="image"')],
    [("Content-Disposition", 'form-data; name="image"; filename="a"'), ("Content-Transfer-Encoding", "base64")],
    [("Content-Disposition", f'form-data; name="images"; filename="../../{ESCAPED}"')],
    [("Content-Disposition", f"form-data; name=\"images\"; filename*=UTF-8''%2e%2e%2f{ESCAPED}")],
    [("Content-Disposition", 'form-data; name="images"; filename="' + "a" * 200_000 + '"')],
    [("Content-Disposition", 'form-data; name="images"; filename="\\"\\\\"')],
    [("Content-Disposition", 'form-data; name="images"; filename="\x00"')],
    [("Content-Disposition", 'attachment; name="images"; filename="a"')],
    [("Content-Disposition", f'form-data; name="{CANARY}"; filename="a"')],
    [("Content-Disposition", "form-data; " + "a=b; " * 20_000)],
    [("Content-Disposition", 'form-data; name="image"; filename="a"')] * 500,
    [(f"X-{at}", "a" * 50) for at in range(5000)],
    [("X" * 100_000, "a")],
    [("Content-Type", "multipart/mixed; boundary=inner"), ("Content-Disposition", 'form-data; name="images"')],
    [("Content-Type", "image/jpeg\r\n folded"), ("Content-Disposition", 'form-data; name="images"; filename="a"')],
    [("", ""), (":", ":")],
)


def _odd_header(chance: Random) -> tuple[str, str, bytes]:
    number = chance.randrange(len(_PART_HEADERS))
    lines = "".join(f"{name}: {value}\r\n" for name, value in _PART_HEADERS[number])
    part = f"--{BOUNDARY}\r\n{lines}\r\n".encode() + picture(chance.randrange(20)) + b"\r\n"
    body = part * chance.choice((1, 2, 20)) + f"--{BOUNDARY}--\r\n".encode()
    return f"part headers {number}", form_type(), body


def _broken_form(chance: Random) -> tuple[str, str, bytes]:
    data = bytearray(form(chance.choice(("image", "images")), [("a.png", picture(1, "PNG")), *_some(chance)]))
    if chance.random() < 0.4:
        del data[chance.randrange(len(data)) :]
        return "form cut", form_type(), bytes(data)
    for _ in range(chance.choice((1, 5, 50))):
        data[chance.randrange(min(len(data), 300) if chance.random() < 0.5 else len(data))] = chance.randrange(256)
    return "form with wrong bytes", form_type(), bytes(data)
