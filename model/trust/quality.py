"""Input quality: nucleus, focus, brightness, stain, size and position, measured on the pixels that the model receives.

The measures are simple and their thresholds come from real cells. None of them uses the network.
"""

from functools import lru_cache
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from model.trust.reference import Measure

Pictures = NDArray[np.uint8]  # (N, S, S, 3) RGB
Measures = NDArray[np.float32]  # (N, 6)

MEASURES: tuple[Measure, ...] = get_args(Measure)
#: Sampled rows and columns for colour, and sampled rows for focus.
COLOUR_GRID, FOCUS_ROWS = 32, 32
#: Radius of the middle in which a nucleus is expected, as share of the side.
MIDDLE_RADIUS = 0.31
#: A nucleus is darker in green than the background by this optical density, and more blue than green by this share.
NUCLEUS_DENSITY, NUCLEUS_BLUENESS = 0.5, 0.08
#: Quantile of green that is taken for the background.
BACKGROUND_QUANTILE = 0.9
#: Added to differences of grey levels, so that a picture of one colour has a finite focus.
FLAT = 0.1


def measure(pictures: Pictures) -> Measures:
    """(N, 6), in the order of `MEASURES`.

    nucleus_in_middle: share of the middle with the colour of a nucleus.
    focus: logarithm of the mean absolute second difference of neighbours in a row, divided by the first.
    brightness: green of the background, 0..1.
    stain: mean optical density of the nucleus in green.
    nucleus_area: share of the picture with the colour of a nucleus.
    offset: distance of the nucleus's centre from the middle, as share of the side.
    """
    nucleus, density, background = _nucleus(pictures)
    rows, columns, middle = _grid(density.shape[1])
    area = np.add.reduce(nucleus, axis=1, dtype=np.float32)
    counted = np.maximum(area, 1)
    found = np.empty((len(pictures), len(MEASURES)), np.float32)
    found[:, 0] = (nucleus @ middle) / np.add.reduce(middle)  # whole numbers: the same in every order of summation
    found[:, 1] = _focus(pictures)
    found[:, 2] = background / 255
    found[:, 3] = np.einsum("np,np->n", density, nucleus) / counted
    found[:, 4] = area / density.shape[1]
    found[:, 5] = np.hypot(nucleus @ rows / counted, nucleus @ columns / counted)
    return found


def _nucleus(pictures: Pictures) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """1 where a sampled pixel has the colour of a nucleus (N, P), density (N, P), and green of the background (N,)."""
    step = max(1, pictures.shape[1] // COLOUR_GRID)
    red, green, blue = (
        pictures[:, step // 2 :: step, step // 2 :: step, channel].reshape(len(pictures), -1).astype(np.float32)
        for channel in range(3)
    )
    place = round(BACKGROUND_QUANTILE * (green.shape[1] - 1))
    background = np.partition(green, place, axis=1)[:, place]
    density = np.log((background[:, None] + 1) / (green + 1))
    blueness = (blue - green) / (red + green + blue + 1)
    is_nucleus = (density > NUCLEUS_DENSITY) & (blueness > NUCLEUS_BLUENESS)
    return is_nucleus.astype(np.float32), density, background


@lru_cache(maxsize=8)
def _grid(pixels: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Row and column of each sampled pixel from the middle, as shares of the side, and 1 in the middle; (P,) each."""
    side = round(pixels**0.5)
    place = (np.arange(side, dtype=np.float32) - (side - 1) / 2) / side
    rows, columns = np.repeat(place, side), np.tile(place, side)
    middle = np.hypot(rows, columns) < MIDDLE_RADIUS
    return rows, columns, middle.astype(np.float32)


def _focus(pictures: Pictures) -> NDArray[np.float32]:
    rows = pictures[:, :: max(1, pictures.shape[1] // FOCUS_ROWS), :, 1].astype(np.float32)
    first = rows[:, :, 1:] - rows[:, :, :-1]
    second = first[:, :, 1:] - first[:, :, :-1]
    sizes = [np.add.reduce(np.absolute(each).reshape(len(rows), -1), axis=1) / each[0].size for each in (first, second)]
    found: NDArray[np.float32] = np.log((sizes[1] + FLAT) / (sizes[0] + FLAT))
    return found
