"""First bytes of file types that are named in a refusal."""

import base64
import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import numpy as np
from pictures import encoded, plain

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
