"""Pictures without a cell, to measure whether they are rejected."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage import data

from model.resize import to_square
from training.drawn.painter import paint_red_cells

Pictures = NDArray[np.uint8]  # (N, S, S, 3)

#: Pictures of each kind.
COUNT = 40
#: Photographs that come with scikit-image, and crops of each.
PHOTOGRAPHS = ("astronaut", "camera", "cat", "coffee", "coins", "moon", "page", "rocket", "text")
CROPS = 5


def non_cell_pictures(size: int) -> dict[str, Pictures]:
    """Kind → pictures (N, S, S, 3): noise, one colour, gradients, drawn red cells and photographs."""
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 256, (COUNT, 1, 1, 3), np.uint8)
    return {
        "noise": np.stack([_noise(generator, size, at) for at in range(COUNT)]),
        "one colour": np.broadcast_to(colours, (COUNT, size, size, 3)).copy(),
        "gradients": np.stack([_gradient(generator, size) for _ in range(COUNT)]),
        "drawn red cells": np.stack([to_square(paint_red_cells(seed), size) for seed in range(COUNT)]),
        "photographs": np.stack(list(_photographs(generator, size))),
    }


def _noise(generator: np.random.Generator, size: int, at: int) -> NDArray[np.uint8]:
    """Uniform noise, coloured or grey, alternately unchanged and blurred."""
    channels = 3 if at % 2 else 1
    noise = generator.integers(0, 256, (size, size, channels)).repeat(3 // channels, axis=2).astype(np.float64)
    if at % 4 > 1:
        noise = gaussian_filter(noise, (2, 2, 0)) * 4 - 384
    return noise.clip(0, 255).astype(np.uint8)


def _gradient(generator: np.random.Generator, size: int) -> NDArray[np.uint8]:
    ends = generator.integers(0, 256, (2, 3))
    rows = np.linspace(ends[0], ends[1], size)[:, None].repeat(size, axis=1)
    return np.rot90(rows, int(generator.integers(4))).astype(np.uint8)


def _photographs(generator: np.random.Generator, size: int) -> Iterator[NDArray[np.uint8]]:
    for name in PHOTOGRAPHS:
        picture = getattr(data, name)()
        picture = picture if picture.ndim == 3 else picture[..., None].repeat(3, axis=2)
        for _ in range(CROPS):
            side = round(min(picture.shape[:2]) * generator.uniform(0.3, 1))
            top, left = (generator.integers(0, length - side + 1) for length in picture.shape[:2])
            yield to_square(np.ascontiguousarray(picture[top : top + side, left : left + side]), size)
