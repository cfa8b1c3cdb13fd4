"""Localisation, faithfulness and randomisation tests of the attention and evidence maps.

Localisation: the share of a map inside a rough mask of the cell, against centred Gaussians: one of the same spread, and
one of the spread of an average cell. Cells lie in the middle of their pictures, so a map that shows
only this is no better than the Gaussians.

Faithfulness: pixels are deleted or inserted in the order of the map (arXiv 1806.07421, section 4.1), against a centred
disc and a random order. A map that orders no better than the disc does not explain the answer.

Randomisation: the rank correlation with the map of the same network with shuffled weights (arXiv 1810.03292, section
3.1). A map that stays alike does not depend on what was learned.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import spearmanr

from model.agreement.class_averages import Floats, Labels
from model.parts import MLKA_PART
from training.config import Config
from training.data.images import LabelledImages
from training.data.masks import rough_mask
from training.data.samples import patient_numbers
from training.evaluation.evaluate import evenly_spaced, of_intended_tissue
from training.evaluation.network_outputs import BATCH_SIZE, maps, score
from training.evaluation.paired import mean_with_interval
from training.networks.build import Network
from training.run import MeasuredCurve, MeasuredMap

Maps = NDArray[np.float32]  # (N, S, S)
Images = NDArray[np.uint8]  # (N, S, S, 3)

#: Shares of the pixels that are deleted or inserted; the mean probability over them measures a curve.
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5)
#: Pictures that are measured, at most.
MOST_PICTURES = 200
#: Blocks a side of the random order: as coarse as the maps are.
RANDOM_BLOCKS = 8
#: Networks with shuffled weights, over which the rank correlation is averaged.
SHUFFLES = 3
EVIDENCE = "evidence"


def measure_maps(net: Network, config: Config, pictures: LabelledImages) -> tuple[MeasuredMap, ...]:
    """Test every map of a network: attention as served, and the evidence for the predicted class.

    Networks without MLKA are measured by their evidence alone: their `attention` weights nothing and is not exported.

    Args:
        net: in eval mode.
        pictures: the calibration block; up to 200 pictures of the intended tissue (`card.tissue`) are used, and none of
            a class that is never counted (an artefact is no cell to lie on).

    Returns:
        One entry for each attention scale, then one for the evidence; empty if no picture shows a cell. Only positive
        evidence counts as inside or outside; the order of deletion is that of the signed values.
    """
    rows = _chosen(config, pictures)
    images, patients = pictures.images[rows], patient_numbers([pictures.samples[row] for row in rows])
    if not len(images):
        return ()
    predicted = score(net, config, images, description="scoring for maps").argmax(axis=1)
    masks = np.stack([rough_mask(image, growth=0) for image in images]).astype(np.float32) / np.float32(255)
    shuffled = [maps_of(shuffled_weights(net, seed), config, images, predicted) for seed in range(SHUFFLES)]
    curves = _Curves(net, config, images, predicted, patients)
    return tuple(
        _measure(name, found, [maps[name] for maps in shuffled], masks, curves)
        for name, found in maps_of(net, config, images, predicted).items()
    )


def _chosen(config: Config, pictures: LabelledImages) -> NDArray[np.int64]:
    """Rows of pictures of cells of the intended tissue."""
    cells = np.array([one.countable != "never" for one in config.classes])
    rows = np.flatnonzero(of_intended_tissue(config, pictures) & cells[pictures.labels])
    return evenly_spaced(rows, MOST_PICTURES)


def _measure(name: str, found: Maps, shuffled: Sequence[Maps], masks: Maps, curves: "_Curves") -> MeasuredMap:
    positive = found.clip(0)
    inside, of_gaussian = share_inside(positive, masks), share_inside(gaussians_like(positive), masks)
    more, low, high = mean_with_interval(inside - of_gaussian, curves.patients)
    return MeasuredMap(
        map=name,
        n=len(found),
        inside=float(inside.mean()),
        inside_gaussian=float(of_gaussian.mean()),
        inside_cell_sized=float(share_inside(_cell_sized(masks), masks).mean()),
        inside_more=more,
        inside_more_low=low,
        inside_more_high=high,
        cell_area=float(masks.mean()),
        deletion=curves.compared(found, "deletion"),
        insertion=curves.compared(found, "insertion"),
        shuffled_correlation=rank_correlation(found, shuffled),
    )


def maps_of(net: Network, config: Config, images: Images, classes: Labels) -> Mapping[str, Maps]:
    """Every map of a network, upsampled to the pictures' size.

    Args:
        classes: (N,), the class of each picture whose evidence is returned.
    """
    batches = [slice(start, start + BATCH_SIZE) for start in range(0, len(images), BATCH_SIZE)]
    parts = []
    for batch in batches:
        attention, evidence = maps(net, config, images[batch])
        of_class = evidence[np.arange(len(evidence)), classes[batch]][:, None]
        parts.append([_upsampled(attention, images.shape[1]), _upsampled(of_class, images.shape[1])])
    attention, evidence = (np.concatenate(column) for column in zip(*parts, strict=True))
    scales = net.attention_scales if MLKA_PART in net.parts() else ()
    named = {f"attention {scale}": attention[:, at] for at, scale in enumerate(scales)}
    return named | {EVIDENCE: evidence[:, 0]}


def _upsampled(found: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    return F.interpolate(torch.from_numpy(found), side, mode="bilinear").numpy()


def share_inside(found: Maps, masks: Maps) -> Floats:
    """Share of each map inside the mask, (N,); of an empty map the mask's share of the picture."""
    total = found.sum(axis=(1, 2), dtype=np.float64)
    inside = (found * masks).sum(axis=(1, 2), dtype=np.float64)
    return np.where(total > 0, inside / np.maximum(total, np.finfo(np.float64).tiny), masks.mean(axis=(1, 2)))


def gaussians_like(found: Maps) -> Maps:
    """For each map the Gaussian in the middle of the picture, cut off at its border, with the map's variance.

    The variance of a map is around its own centre, the mean of both directions. A map as wide as an even one, or wider,
    and an empty map get an even one.
    """
    side = found.shape[1]
    axis = np.arange(side) - (side - 1) / 2
    sigmas = np.geomspace(0.3, 10 * side, 400)
    profiles = np.exp(-(axis**2) / (2 * sigmas[:, None] ** 2))
    profiles /= profiles.sum(axis=1, keepdims=True)
    chosen = np.interp(_variance(found), profiles @ axis**2, sigmas)
    of_maps = np.exp(-(axis**2) / (2 * chosen[:, None] ** 2))
    return (of_maps[:, :, None] * of_maps[:, None]).astype(np.float32)


def _cell_sized(masks: Maps) -> Maps:
    """The Gaussian as wide as a centred disc of the mean area of the cells; the same for all pictures."""
    side = masks.shape[1]
    radius = np.hypot(*(np.mgrid[:side, :side] - (side - 1) / 2)) / side
    disc = (radius < np.sqrt(masks.mean() / np.pi)).astype(np.float32)
    return np.broadcast_to(gaussians_like(disc[None]), masks.shape)


def _variance(found: Maps) -> Floats:
    """Variance of the position under each map, in pixels², (N,); infinite for an empty map."""
    total = found.sum(axis=(1, 2), dtype=np.float64)
    weight = found / np.maximum(total, np.finfo(np.float64).tiny)[:, None, None]
    axis = np.arange(found.shape[1])
    variance = np.zeros(len(found))
    for direction in (1, 2):
        marginal = weight.sum(axis=3 - direction)
        variance += (marginal @ axis**2 - (marginal @ axis) ** 2) / 2
    return np.where(total > 0, variance, np.inf)


def shuffled_weights(net: Network, seed: int = 0) -> Network:
    """A copy of a network with the values of every parameter in another order."""
    copy, random = deepcopy(net), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copy.parameters():
            order = torch.randperm(parameter.numel(), generator=random)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return copy


def rank_correlation(found: Maps, others: Sequence[Maps]) -> float | None:
    """Mean over pictures and other maps of Spearman's correlation; None if all maps of a side are constant."""
    values = [
        spearmanr(a.ravel(), b.ravel()).statistic
        for other in others
        for a, b in zip(found, other, strict=True)
        if np.ptp(a) > 0 and np.ptp(b) > 0
    ]
    return float(np.mean(values)) if values else None


class _Curves:
    """Deletion and insertion curves of one set of pictures. What is deleted has the median colour of the border.

    Args:
        predicted: (N,), the class of each picture whose probability is measured.
        patients: (N,), number of the patient of each picture; None: patients are not known.
    """

    def __init__(
        self, net: Network, config: Config, images: Images, predicted: Labels, patients: Labels | None = None
    ) -> None:
        self.net, self.config, self.images, self.predicted = net, config, images, predicted
        self.patients = patients
        side = images.shape[1]
        self.empty = border_colours(images)
        orders = {"disc": np.broadcast_to(_disc(side), images.shape[:3]), "random": _random(len(images), side)}
        self.references = {
            (kind, name): self.curve(order, kind)
            for kind in ("deletion", "insertion")
            for name, order in orders.items()
        }

    def compared(self, order: Maps, kind: str) -> MeasuredCurve:
        """The mean of the curve in the order of a map, beside those of the disc and of the random order."""
        own, disc = self.curve(order, kind), self.references[kind, "disc"]
        gain = disc - own if kind == "deletion" else own - disc
        better, low, high = mean_with_interval(gain, self.patients)
        return MeasuredCurve(
            map=float(own.mean()),
            disc=float(disc.mean()),
            random=float(self.references[kind, "random"].mean()),
            better=better,
            better_low=low,
            better_high=high,
        )

    def curve(self, order: Maps, kind: str) -> Floats:
        """Mean probability of the predicted class over the shares, (N,), with the highest values of `order` first."""
        ranks = ranks_of(order)
        return np.mean([self._probability(ranks < share, kind) for share in SHARES], axis=0)

    def _probability(self, first: NDArray[np.bool_], kind: str) -> Floats:
        kept = (~first if kind == "deletion" else first)[..., None]
        pictures = np.where(kept, self.images, self.empty)
        logits = score(self.net, self.config, pictures, description=kind)
        rows = np.arange(len(logits))
        return torch.softmax(torch.from_numpy(logits), dim=1).numpy().astype(np.float64)[rows, self.predicted]


def ranks_of(order: Maps) -> Maps:
    """The rank of every pixel in its picture from 0 (highest value) to below 1; ties in random order."""
    count, side, _ = order.shape
    keys = np.stack([_random(count, side), -order]).reshape(2, count, -1)
    ranks = np.empty((count, side * side), np.float32)
    np.put_along_axis(ranks, np.lexsort(keys, axis=-1), np.arange(side * side)[None] / (side * side), axis=1)
    return ranks.reshape(order.shape)


def border_colours(images: Images) -> Images:
    """The median colour of each picture's border, an eighth of the side wide: (N, 1, 1, 3)."""
    side = images.shape[1]
    border = np.ones((side, side), dtype=np.bool_)
    border[side // 8 : -(side // 8), side // 8 : -(side // 8)] = False
    return np.median(images[:, border], axis=1).round().astype(np.uint8)[:, None, None]


def _disc(side: int) -> Maps:
    """Higher towards the middle, (S, S)."""
    row, column = np.mgrid[:side, :side] - (side - 1) / 2
    return -(row**2 + column**2).astype(np.float32)


def _random(count: int, side: int) -> Maps:
    blocks = np.random.default_rng(0).random((count, RANDOM_BLOCKS, RANDOM_BLOCKS), dtype=np.float32)
    nearest = np.arange(side) * RANDOM_BLOCKS // side
    return blocks[:, nearest][:, :, nearest]
