"""What is not read is called by its name, with what to do; nothing of its content is repeated."""

import base64
import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encoded, plain

from model.formats.errors import ArchiveForPicture, PictureError, UndecodablePicture, UnsupportedPicture
from model.formats.file_types import format_of
from model.image import decode

PICTURE = encoded(plain("RGB", (200, 100, 50)), "PNG")


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((8, 8, 3), np.uint8))
    return file.getvalue()


def tar(form: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        archive.addfile(tarfile.TarInfo("cell.png"), io.BytesIO())
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr("cell.png", PICTURE)
    return file.getvalue()


def box(brand: bytes) -> bytes:
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1"


NAMED = {
    "GIF": (encoded(plain("P", 1), "GIF"), "a GIF"),
    "JPEG 2000": (encoded(plain("RGB", 1), "JPEG2000"), "JPEG 2000"),
    "JPEG 2000 codestream": (encoded(plain("RGB", 1), "JPEG2000", no_jp2=True), "JPEG 2000"),
    "HEIC": (box(b"heic"), "HEIC"),
    "HEIF": (box(b"mif1"), "HEIC"),
    "HEIC of ten bits": (box(b"heix"), "HEIC"),
    "AVIF": (encoded(plain("RGB", 1), "AVIF"), "AVIF"),
    "camera raw": (box(b"crx "), "camera raw"),
    "MP4": (box(b"isom"), "video"),
    "JPEG XL": (b"\xff\x0a" + bytes(9) + b"1", "JPEG XL"),
    "JPEG XL in boxes": (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    "JPEG XR": (b"II\xbc\x01", "JPEG XR"),
    "ICO": (encoded(plain("RGB", 1), "ICO"), "icon"),
    "CUR": (b"\0\0\2\0\1\0", "cursor"),
    "PSD": (b"8BPS\0\1", "Photoshop"),
    "XCF": (b"gimp xcf v011", "GIMP"),
    "EXR": (b"v/1\x01\2\0\0\0", "OpenEXR"),
    "HDR": (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "Radiance HDR"),
    "DDS": (encoded(plain("RGB", 1), "DDS"), "DDS"),
    "PPM": (encoded(plain("RGB", 1), "PPM"), "Netpbm"),
    "DICOM": (bytes(128) + b"DICM\2\0\0\0", "DICOM"),
    "CZI": (b"ZISRAWFILE\0\0\0\0\0\0", "CZI"),
    "ND2": (b"\xda\xce\xbe\x0a\x10\0\0\0", "ND2"),
    "LIF": (b"\x70\0\0\0\x1a\0\0\0", "LIF"),
    "ZVI": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "OLE2"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "NumPy": (npy(), "NumPy"),
    "FITS": (b"SIMPLE  =                    T", "FITS"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", "a PDF"),
    "PostScript": (b"%!PS-Adobe-3.0", "PostScript"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg">', "SVG"),
    "SVG with a declaration": (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- a drawing -->\n<svg>', "SVG"),
    "HTML": (b"\n<!DOCTYPE html><html><body>504 Gateway", "HTML"),
    "XML": (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "XML"),
    "JSON": (json.dumps({"error": "no such file"}).encode(), "JSON"),
    "JSON list": (b"[1, 2]", "JSON"),
    "base64": (base64.b64encode(PICTURE), "base64 text"),
    "base64 of a JPEG": (base64.b64encode(encoded(plain("RGB", 1), "JPEG")), "base64 text"),
    "base64 in lines": (base64.encodebytes(encoded(plain("RGB", 1), "TIFF")), "base64 text"),
    "base64 for URLs": (base64.urlsafe_b64encode(encoded(plain("RGB", 1), "WEBP")), "base64 text"),
    "data URL": (b"data:image/png;base64," + base64.b64encode(PICTURE), "data: URL"),
    "text": ("Patientin: Müller, Änne\n".encode() * 40, "text"),
    "UTF-16": ("cell".encode("utf-16"), "UTF-16"),
    "form": (b'--boundary123\r\nContent-Disposition: form-data; name="image"', "multipart form"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
    "gzip": (gzip.compress(PICTURE), "compressed by gzip"),
    "bzip2": (bz2.compress(PICTURE), "compressed by bzip2"),
    "xz": (lzma.compress(PICTURE), "compressed by xz"),
    "zstd": (b"(\xb5/\xfd\x04", "compressed by zstd"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4", "7z"),
    "RAR": (b"Rar!\x1a\x07\x01\0", "RAR"),
    "tar": (tar(tarfile.USTAR_FORMAT), "a tar archive.*batch"),
    "GNU tar": (tar(tarfile.GNU_FORMAT), "a tar archive.*batch"),
    "nothing known": (b"\x8e\x02\x99\xfe" * 9, "unknown type of file"),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_read_is_called_by_its_name(name: str) -> None:
    data, sentence = NAMED[name]
    with pytest.raises(UnsupportedPicture, match=sentence) as caught:
        decode(data, 32)
    assert ("send" in caught.value.reason) and "Müller" not in caught.value.reason


def test_a_zip_is_an_archive_whatever_it_begins_with() -> None:
    for data in (archive(), b"PK\x05\x06" + bytes(18), b"PK\x07\x08PK\x03\x04"):
        with pytest.raises(ArchiveForPicture, match="ZIP"):
            decode(data, 32)


def test_a_file_that_was_never_written_says_so() -> None:
    with pytest.raises(UndecodablePicture, match="zeros"):
        decode(bytes(4000), 32)


@given(st.binary(min_size=1, max_size=600))
def test_any_beginning_has_an_answer(head: bytes) -> None:
    try:
        assert format_of(head) in {"JPEG", "PNG", "BMP", "TIFF", "WEBP"}
    except PictureError as error:
        assert error.reason


JPEG = encoded(plain("RGB", 1), "JPEG")
CHANGED = {
    "PNG, LF": (PICTURE.replace(b"\r\n", b"\n"), "line ends"),
    "PNG, CR LF": (PICTURE.replace(b"\n", b"\r\n"), "line ends"),
    "PNG, 7 bits": (bytes(byte & 127 for byte in PICTURE), "upper bit"),
    "PNG as UTF-8": (PICTURE.decode("latin-1").encode(), "encoded as UTF-8"),
    "JPEG as UTF-8": (JPEG.decode("latin-1").encode(), "encoded as UTF-8"),
    "PNG from UTF-8": (PICTURE.decode("utf-8", "replace").encode(), "decoded as UTF-8"),
    "JPEG from UTF-8": (JPEG.decode("utf-8", "replace").encode(), "decoded as UTF-8"),
    "an empty line before": (b"\r\n" + JPEG, "2 bytes stand before the JPEG"),
    "a byte order mark before": (b"\xef\xbb\xbf" + PICTURE, "3 bytes stand before the PNG"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_picture_that_was_taken_for_text_says_so(name: str) -> None:
    data, sentence = CHANGED[name]
    with pytest.raises(UndecodablePicture, match=sentence):
        decode(data, 32)


def test_words_that_begin_like_a_bmp_are_text() -> None:
    with pytest.raises(UnsupportedPicture, match=r"^text, not a picture type"):
        decode(b"BMI 22.5, blast count 3 %\n" * 30, 32)


@given(st.text(min_size=1, max_size=300))
def test_text_is_not_taken_for_a_picture(text: str) -> None:
    with pytest.raises(PictureError):
        decode(text.encode(), 32)
