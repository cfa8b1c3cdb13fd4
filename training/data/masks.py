"""Rough masks of the cell in a picture, by thresholds; no network and no labels are involved.

Their accuracy is not measured; on blood they are often the nucleus alone. Good enough to exchange backgrounds and to
tell the cell's surroundings from the cell; not a segmentation.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_fill_holes
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import label
from skimage.morphology import closing, dilation, disk

#: Side of the picture that the mask is computed on. Finer edges are not reliable.
SIDE = 57
#: Radii as shares of the side: the mask ends at the larger one; the smaller is the disc used where no cell is found.
LARGEST_RADIUS, USUAL_RADIUS = 0.46, 0.3
#: Otsu's threshold often leaves cytoplasm out; the mask is grown by this radius, in pixels of the small picture.
GROWTH = 4
#: A component of less than this share of the picture is no cell.
SMALLEST_SHARE = 0.04


def rough_mask(picture: NDArray[np.uint8], growth: int = GROWTH) -> NDArray[np.uint8]:
    """The cell in the middle of a picture (H, H, 3) as 255, everything else 0; (H, H).

    Otsu's threshold of saturation and green density, closed and filled; the component in the middle, dilated. A disc
    where there is none, or where it is too small.

    Args:
        growth: radius of the dilation, in pixels of the small picture; 0: none.
    """
    small = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64) / 255
    darkness = gaussian(0.6 * (small.max(axis=2) - small.min(axis=2)) + 0.4 * (1 - small[..., 1]), 1)
    inside = binary_fill_holes(closing(darkness > threshold_otsu(darkness), disk(2)))
    radius = np.hypot(*(np.mgrid[:SIDE, :SIDE] - SIDE // 2))
    cell = _middle_component(inside) & (radius < LARGEST_RADIUS * SIDE)
    if cell.mean() < SMALLEST_SHARE:
        cell = radius < USUAL_RADIUS * SIDE
    grown = dilation(cell, disk(growth)).astype(np.uint8) * 255
    return np.asarray(Image.fromarray(grown).resize(picture.shape[1::-1], Image.Resampling.BILINEAR))


def with_mask(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture (H, H, 3) with its mask as the fourth channel, (H, H, 4)."""
    return np.dstack([picture, rough_mask(picture)])


def _middle_component(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The component with most of the pixels in the middle; empty where there is none."""
    components, middle = label(inside), slice(SIDE // 2 - 3, SIDE // 2 + 4)
    counts = np.bincount(components[middle, middle].ravel())
    counts[0] = 0
    return (components == counts.argmax()) & (counts.max() > 0)
