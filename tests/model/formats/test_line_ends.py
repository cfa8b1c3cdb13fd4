"""BMP, TIFF and WebP that were transferred as text: refused by that name, where every LF got a CR."""

import numpy as np
import pytest
from pictures import encoded
from PIL import Image

from model.formats.checks import check_line_ends
from model.image import PictureError, decode

NOISE = Image.fromarray(np.random.default_rng(5).integers(0, 256, (96, 96, 3), np.uint8))
FORMS = [("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "packbits"}), ("WEBP", {}), ("WEBP", {"lossless": True})]


@pytest.mark.parametrize(("form", "how"), FORMS)
def test_a_transfer_as_text_is_refused(form: str, how: dict[str, object]) -> None:
    whole = encoded(NOISE, form, **how)
    decode(whole, 64)
    with pytest.raises(PictureError, match=r"line ends were changed"):
        decode(whole.replace(b"\n", b"\r\n"), 64)


@pytest.mark.parametrize("form", ["BMP", "WEBP"])
def test_a_file_of_the_size_that_it_states_is_whole(form: str) -> None:
    """As a drawing in the one colour that has these bytes."""
    drawn = encoded(Image.new("RGB", (16, 16), (3, 10, 13)), "BMP")
    assert drawn.count(b"\r\n") == 256
    decode(drawn, 64)
    data = bytes(12) + b"\r\n" * 40
    size = {"BMP": (2, len(data)), "WEBP": (4, len(data) - 8)}[form]
    check_line_ends(form, data[: size[0]] + size[1].to_bytes(4, "little") + data[size[0] + 4 :])


def test_what_stands_behind_a_picture_is_no_damage() -> None:
    for form in ("BMP", "TIFF"):
        assert (decode(encoded(NOISE, form) + b"\r\n", 64) == decode(encoded(NOISE, form), 64)).all()
