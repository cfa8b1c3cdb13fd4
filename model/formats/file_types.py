"""The type of a file by its first bytes: a supported picture format, or what else it is, for the error message."""

import codecs
import re

from model.formats.errors import ArchiveForPicture, UndecodablePicture, UnsupportedPicture

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
_SEND = f"send {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"

_READ = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"BM": "BMP",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"II+\x00": "TIFF",
    b"MM\x00+": "TIFF",
}
#: Other formats. Where one signature is a prefix of another, the longer one comes first.
_PICTURES = {
    b"GIF87a": "a GIF",
    b"GIF89a": "a GIF",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n": "a JPEG 2000 picture",
    b"\xff\x4f\xff\x51": "a JPEG 2000 picture",
    b"\x00\x00\x00\x0cJXL \r\n\x87\n": "a JPEG XL picture",
    b"\xff\x0a": "a JPEG XL picture",
    b"II\xbc": "a JPEG XR picture",
    b"II\x1a\x00\x00\x00HEAPCCDR": "a camera raw file (CRW)",
    b"IIRS": "a camera raw file (ORF)",
    b"IIRO": "a camera raw file (ORF)",
    b"MMOR": "a camera raw file (ORF)",
    b"IIU\x00": "a camera raw file (RW2)",
    b"FUJIFILMCCD-RAW": "a camera raw file (RAF)",
    b"\x00\x00\x01\x00": "an icon (ICO)",
    b"\x00\x00\x02\x00": "a cursor (CUR)",
    b"8BPS": "a Photoshop file (PSD)",
    b"8BPB": "a Photoshop file (PSB)",
    b"gimp xcf": "a GIMP file (XCF)",
    b"v/1\x01": "an OpenEXR picture",
    b"#?RADIANCE": "a Radiance HDR picture",
    b"#?RGBE": "a Radiance HDR picture",
    b"DDS ": "a DDS texture",
    b"qoif": "a QOI picture",
    b"FLIF": "a FLIF picture",
    b"BPG\xfb": "a BPG picture",
    b"\x01\xda\x01": "an SGI picture",
    b"\x01\xda\x00": "an SGI picture",
    b"SIMPLE  =": "a FITS file",
    b"\x8aMNG\r\n\x1a\n": "an MNG animation",
    b"\x8bJNG\r\n\x1a\n": "a JNG picture",
    b"AT&TFORM": "a DjVu document",
    b"\xd7\xcd\xc6\x9a": "a Windows metafile (WMF)",
    b"ZISRAWFILE": "a Zeiss CZI file",
    b"ZISRAWSUBBLOCK": "a Zeiss CZI file",
    b"\xda\xce\xbe\x0a": "a Nikon ND2 file",
    b"\x6a\x50\x20\x20": "a Nikon ND2 file",
    b"\x70\x00\x00\x00": "a Leica LIF file",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an OLE2 document (such as Zeiss ZVI or Olympus OIB)",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"CDF\x01": "a NetCDF file",
    b"\x93NUMPY": "a NumPy array",
    b"MATLAB 5.0": "a MATLAB file",
    b"NRRD0": "an NRRD file",
    b"%PDF-": "a PDF",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"SQLite format 3\x00": "an SQLite database",
    b"PAR1": "a Parquet file",
    b"OggS": "a video or sound file",
    b"\x1aE\xdf\xa3": "a video (Matroska)",
    b"\0\5\x16\7": "an AppleDouble file (macOS keeps attributes in it)",
    b"\x7fELF": "a program",
    b"MZ": "a program",
}
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x1f\x9d": "compress (.Z)",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"(\xb5/\xfd": "zstd",
    b"\x04\x22\x4d\x18": "LZ4",
    b"LZIP": "lzip",
}
_ARCHIVES = {
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"MSCF": "a CAB archive",
    b"!<arch>\n": "an ar archive",
}
#: Names by the brand of an ISO base media file (ISO/IEC 14496-12 section 4.3).
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "a HEIC picture"),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF picture"),
    b"crx ": "a camera raw file (CR3)",
}
#: First bytes of the supported formats in base64, in either alphabet.
_BASE64 = (b"/9j/", b"_9j_", b"iVBORw0KGgo", b"Qk", b"SUkq", b"SUkr", b"TU0A", b"UklGR")
_BASE64_ONLY = re.compile(rb"[A-Za-z0-9+/_=\s-]{16,}\Z")
_TEXTS = (
    (re.compile(rb"<svg|<\?xml.{0,400}<svg", re.DOTALL | re.IGNORECASE), "an SVG drawing"),
    (re.compile(rb"<!doctype html|<html|<head|<body", re.IGNORECASE), "an HTML page"),
    (re.compile(rb"<\?xml|<[A-Za-z]"), "an XML document"),
    (re.compile(rb"[{\[]\s*[\"{\[\]}0-9tfn-]"), "JSON"),
    (re.compile(rb"P[1-7]\s"), "a Netpbm picture (PBM, PGM, PPM or PAM)"),
    (re.compile(rb"--+[\w'-]+\r?\n|content-(disposition|type):", re.IGNORECASE), "a multipart form inside the body"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer in place of the file"),
)
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
#: First bytes of the supported formats after a transfer in text mode.
_AS_TEXT = {
    b"\x89PNG": "its line ends were changed",
    b"\x09PNG": "the upper bit of each byte was removed",
    b"\xc2\x89PNG": "its bytes were encoded as UTF-8",
    b"\xc3\xbf\xc3\x98": "its bytes were encoded as UTF-8",
    b"\xe2\x80\xb0PNG": "its bytes were encoded as UTF-8",  # 0x89 of Windows-1252
    b"\x7fX\x7f": "the upper bit of each byte was removed",
    b"????\x00\x10": "its bytes were decoded as ASCII",
    b"?PNG": "its bytes were decoded as ASCII",
    b"\xef\xbf\xbdPNG": "its bytes were decoded as UTF-8",
    b"\xef\xbf\xbd\xef\xbf\xbd": "its bytes were decoded as UTF-8",
}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HEAD_BYTES = 512


def format_of(head: bytes) -> str:
    """The format of a file, one of FORMATS. 16 bytes are enough to find it; 512 also name what is refused.

    Raises:
        UnsupportedPicture: another type of file, named if it is recognised.
        UndecodablePicture: empty, or damaged by a transfer in text mode.
    """
    if not head:
        raise UndecodablePicture("the picture is empty (0 bytes)")
    found = _read_format(head)
    if found is None or (found == "BMP" and _text(head[:_HEAD_BYTES])):  # two letters, which can also start a text
        raise _refusal(head[:_HEAD_BYTES])
    return found


def _read_format(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return _begins(head, _READ)


def _refusal(head: bytes) -> UnsupportedPicture | UndecodablePicture:
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return ArchiveForPicture("a ZIP archive instead of one picture")
    if head[257:262] == b"ustar":
        return UnsupportedPicture("a tar archive instead of one picture; send it as a batch (application/x-tar)")
    if method := _begins(head, _COMPRESSED):
        return UnsupportedPicture(f"data compressed by {method}; send the picture uncompressed")
    if name := _begins(head, _ARCHIVES):
        return UnsupportedPicture(f"{name} instead of one picture; send the pictures, or a ZIP or tar of them")
    if change := _begins(head, _AS_TEXT):
        return UndecodablePicture(f"a picture damaged by a transfer in text mode: {change}; send it as binary data")
    behind = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if len(behind) < len(head) and (found := _read_format(behind)):
        return UndecodablePicture(f"{len(head) - len(behind)} bytes before the {found} data; send the file alone")
    if not head.strip(b"\0"):
        return UndecodablePicture(
            "the picture begins with zeros only: the file was not written or sent completely; send it again"
        )
    name = _container(head) or _begins(head, _PICTURES) or _text(head) or "an unknown type of file"
    return UnsupportedPicture(f"{name} is not a supported picture type; {_SEND}")


def _begins(head: bytes, names: dict[bytes, str]) -> str | None:
    return next((name for magic, name in names.items() if head.startswith(magic)), None)


def _container(head: bytes) -> str | None:
    """The name of a container format, whose signature is not at the start of the file."""
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "a video (MP4 or QuickTime)")
    if head[128:132] == b"DICM":
        return "a DICOM file"
    if head[:2] == b"BA" and head[14:16] == b"BM":
        return "an OS/2 bitmap array"
    if head[:4] == b"RIFF":
        return "a video or sound file"
    return None


def _text(head: bytes) -> str | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text (UTF-16)"
    text = head.removeprefix(_BYTE_ORDER_MARK).lstrip()
    if text[:5].lower() == b"data:":
        return "a data: URL, which is text"
    if _BASE64_ONLY.match(text.rstrip(b"\0")) and text.startswith(_BASE64):
        return "base64 text of a picture, to be decoded first"
    for pattern, name in _TEXTS:
        if pattern.match(text):
            return name
    return "text" if text and _CONTROL.search(text) is None and _is_utf8(text) else None


def _is_utf8(text: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(text)  # a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return True
