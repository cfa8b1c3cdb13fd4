"""ZIP and tar of ordinary and hostile clients: limits, unpacking in memory, and no effect of a bad member on others."""

import io
import struct
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import Named, tarred, zipped

from model.image import PictureError, UndecodablePicture
from service.api.uploads.archives import ArchiveLimits, tar_members, zip_members
from service.errors import BodyTooLarge, ServiceError, TooManyPictures

BOUNDS = ArchiveLimits(max_pictures=5, max_picture_bytes=1000, max_unpacked_bytes=4000)
THREE: Named = [("a/1.png", b"one"), ("a/2.png", b""), ("3.png", b"three")]


def patched(archive: bytes, offset_in_directory: int, value: bytes) -> bytes:
    """A ZIP with bytes of its first directory entry replaced."""
    at = archive.index(b"PK\x01\x02") + offset_in_directory
    return archive[:at] + value + archive[at + len(value) :]


def contents(archive: bytes) -> list[object]:
    return [upload.content for upload in zip_members(io.BytesIO(archive), BOUNDS)]


def test_an_encrypted_member_is_a_problem_of_its_own() -> None:
    found = contents(patched(zipped([("1", b"one"), ("2", b"two")]), 8, b"\x01\x00"))
    assert isinstance(found[0], UndecodablePicture) and "encrypted" in found[0].reason
    assert found[1] == b"two"


def test_a_member_without_a_name_is_a_picture_like_any_other() -> None:
    file, nameless = io.BytesIO(), zipfile.ZipInfo("x")
    nameless.filename = ""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(nameless, b"one")
        archive.writestr("2", b"two")
    assert contents(file.getvalue()) == [b"one", b"two"]


def test_a_wrong_checksum_is_a_problem_of_its_own() -> None:
    found = contents(patched(zipped([("1", b"one"), ("2", b"two")]), 16, b"\x00\x00\x00\x00"))
    assert isinstance(found[0], UndecodablePicture) and "damaged" in found[0].reason
    assert found[1] == b"two"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_packing_methods_are_not_unpacked(method: int) -> None:
    assert isinstance(contents(zipped([("1", b"one")], method))[0], UndecodablePicture)


def test_a_member_that_lies_about_its_size_gives_no_more_than_the_limit() -> None:
    bomb = zipped([("1", b"\0" * 1_000_000), ("2", b"two")])
    found = contents(patched(bomb, 24, struct.pack("<L", 900)))
    assert isinstance(found[0], UndecodablePicture)
    assert found[1] == b"two"


def test_all_members_together_are_bounded() -> None:
    found = contents(zipped([(str(at), bytes([at]) * 1000) for at in range(5)]))
    assert [len(content) for content in found[:4] if isinstance(content, bytes)] == [1000] * 4
    assert isinstance(found[4], BodyTooLarge)


def test_a_directory_larger_than_its_pictures_need_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooManyPictures):
        contents(zipped([(f"{at:0200}", b"") for at in range(400)]))


def test_entries_are_counted_before_they_are_made() -> None:
    few = ArchiveLimits(max_pictures=1, max_picture_bytes=1000, max_unpacked_bytes=4000)
    folders = [(f"{at}/", b"") for at in range(1003)]
    assert list(zip_members(io.BytesIO(zipped(folders[1:])), few)) == []
    with pytest.raises(TooManyPictures):
        zip_members(io.BytesIO(zipped(folders)), few)


def test_links_in_a_tar_are_not_followed() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind in (("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    file.seek(0)
    found = [upload.content for upload in tar_members(file, BOUNDS)]
    assert [type(content) for content in found] == [UndecodablePicture] * 3


def test_a_tar_of_nothing_but_folders_ends() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for at in range(2000):
            info = tarfile.TarInfo(f"folder{at}")
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
    file.seek(0)
    with pytest.raises(TooManyPictures):
        tar_members(file, BOUNDS)


def test_names_are_echoed_as_valid_and_short_text() -> None:
    odd = tarred([("a\udcff" + "b" * 400, b"one")])
    found = list(tar_members(io.BytesIO(odd), BOUNDS))
    assert found[0].name is not None
    assert len(found[0].name.encode("utf-8")) <= 255
    assert found[0].content == b"one"


@given(st.data())
def test_a_damaged_archive_gives_items_or_one_error_of_the_service(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([zip_members, tar_members]))
    good = zipped(THREE) if kind is zip_members else tarred(THREE)[:4096]
    damaged = bytearray(good)
    for at in data.draw(st.lists(st.integers(0, len(good) - 1), min_size=1, max_size=8)):
        damaged[at] = data.draw(st.integers(0, 255))
    try:
        found = list(kind(io.BytesIO(bytes(damaged[: data.draw(st.integers(0, len(good)))])), BOUNDS))
    except ServiceError:
        return
    assert all(isinstance(upload.content, bytes | ServiceError | PictureError) for upload in found)
