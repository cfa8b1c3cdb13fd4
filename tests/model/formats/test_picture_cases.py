"""Files that were read wrongly once, made from one real cell. They lie beside the checkout or nowhere."""

import numpy as np
import pytest
from checkout import SHARED

from model.formats.errors import PictureError
from model.image import decode

CASES = SHARED / "cases" / "pictures"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason="no ../shared/cases/pictures beside the checkout")

#: File → the picture that a person sees in it.
RIGHT = {
    "base.jpg": "base.png", "ome_sig12.ome.tif": "base.png", "png16_sbit12_low.png": "base.png",
    "v4_alpha0.bmp": "base.png", "pal_8bit_colormap.tif": "ref_q.png", "grey4_trns.png": "ref_g4.png",
    "png_exif_garbage.png": "base.png", "bigbe.tif": "base.png",
}  # fmt: skip
#: File → what its refusal says.
REFUSED = {
    "rgb16_holds12.tif": "maximum is 3936 of 65535", "alpha0.png": "completely transparent",
    "ij_truncated.tif": "stack of 3 planes", "dng_like_wrongthumb.tif": "preview", "jpeg12.jpg": "12-bit JPEG",
    "float32.tif": "floating-point", "svs_j2k.tif": "JPEG 2000",
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_the_picture_that_a_person_sees_is_decoded(name: str) -> None:
    found, expected = (decode((CASES / file).read_bytes(), 250).astype(int) for file in (name, RIGHT[name]))
    assert np.abs(found - expected).max() <= (0 if name != "base.jpg" else 1)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_says_what_it_is(name: str) -> None:
    with pytest.raises(PictureError, match=REFUSED[name]):
        decode((CASES / name).read_bytes(), 250)
