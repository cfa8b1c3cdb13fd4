"""Lesions: how much the answers of a network depend on each of its named parts.

The output of a part is replaced by its mean over the calibration pictures and all positions, channel by channel, and
the pictures are classified again (mean ablation; arXiv 2211.00593, section 2.1). The mean keeps the scale that later
layers expect; zeros would not. A part has no effect if no answer changes, however large its weights are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from model.agreement.class_averages import Drawn, Labels
from model.agreement.clustered import proportion
from training.config import Config
from training.data.images import LabelledImages
from training.data.samples import patient_numbers
from training.evaluation.evaluate import evenly_spaced, of_intended_tissue
from training.evaluation.network_outputs import score
from training.evaluation.paired import draw_accuracy
from training.networks.build import Network
from training.run import MeasuredLesion

#: Pictures that are measured, at most.
MOST_PICTURES = 2000
#: Name of a part → the modules whose outputs are replaced together.
Parts = Mapping[str, Sequence[nn.Module]]
Means = dict[nn.Module, Tensor]  # module → mean of its output by channel, float64 (C,)
#: Called with a module's output; returns the output that the network goes on with.
Change = Callable[[Tensor], Tensor]


def measure_lesions(net: Network, config: Config, pictures: LabelledImages) -> tuple[MeasuredLesion, ...]:
    """Replace each part of a network by its mean, and count the answers that change.

    Args:
        net: in eval mode.
        pictures: the calibration block; up to 2000 pictures of the intended tissue (`card.tissue`) are used.

    Returns:
        One entry for each part, in the order of `net.parts()`; empty for a network without named parts.

    Raises:
        ValueError: a part is not used by the network.
    """
    parts = net.parts()
    if not parts:
        return ()
    rows = evenly_spaced(np.flatnonzero(of_intended_tissue(config, pictures)), MOST_PICTURES)
    labels, images = pictures.labels[rows], pictures.images[rows]
    patients = patient_numbers([pictures.samples[row] for row in rows])

    def predictions(what: str) -> Labels:
        return score(net, config, images, description=what).argmax(axis=1)

    with observed_means(parts) as means:
        intact = predictions("scoring for lesions")
    before = draw_accuracy(labels, intact, len(config.codes), patients)
    measured: dict[frozenset[nn.Module], Labels] = {}  # a network of one stage: its gates are all gates
    lesions = []
    for part, modules in parts.items():
        key = frozenset(modules)
        if key not in measured:
            with replaced({module: means[module] for module in modules}):
                measured[key] = predictions(f"lesion of {part}")
        lesions.append(_lesion(part, labels, intact, measured[key], before, len(config.codes), patients))
    return tuple(lesions)


def _lesion(
    part: str,
    labels: Labels,
    intact: Labels,
    without: Labels,
    before: Drawn,
    classes: int,
    patients: Labels | None,
) -> MeasuredLesion:
    changed = proportion(without != intact, patients)
    low, high = (draw_accuracy(labels, without, classes, patients) - before).difference_interval()
    accuracy = float((without == labels).mean())
    return MeasuredLesion(
        part=part,
        n=changed.n,
        changed=changed.hits / changed.n,
        changed_low=changed.low,
        changed_high=changed.high,
        accuracy=accuracy,
        accuracy_change=accuracy - float((intact == labels).mean()),
        accuracy_change_low=low,
        accuracy_change_high=high,
    )


@contextmanager
def observed_means(parts: Parts) -> Iterator[Means]:
    """Compute the mean output of every module of the parts over the forward passes in the block.

    The means are complete after the block. Sums are in float64, so the mean of a constant output is that constant.

    Raises:
        ValueError: no forward pass has used a module.
    """
    sums: dict[nn.Module, tuple[Tensor, int]] = {}
    means: Means = {}

    def add(module: nn.Module) -> Change:
        def change(output: Tensor) -> Tensor:
            total, count = sums.get(module, (torch.zeros(1, dtype=torch.float64), 0))
            flat = output.movedim(1, 0).flatten(1)  # (N, C, …) -> (C, values)
            sums[module] = total + flat.sum(dim=1, dtype=torch.float64), count + flat.shape[1]
            return output

        return change

    used = {module: part for part, modules in parts.items() for module in modules}
    with _hooked({module: add(module) for module in used}):
        yield means
    for module, part in used.items():
        if module not in sums:
            raise ValueError(f"part {part!r} has a {type(module).__name__} that the network does not use")
        total, count = sums[module]
        means[module] = total / count


@contextmanager
def replaced(means: Means) -> Iterator[None]:
    """Replace the outputs of modules by these means in the forward passes of the block."""

    def constant(mean: Tensor) -> Change:
        def change(output: Tensor) -> Tensor:
            by_channel = mean.view(1, -1, *(1 for _ in output.shape[2:]))
            return torch.empty_like(output).copy_(by_channel)  # keeps the memory format, and so the later kernels

        return change

    with _hooked({module: constant(mean) for module, mean in means.items()}):
        yield


@contextmanager
def _hooked(changes: dict[nn.Module, Change]) -> Iterator[None]:
    """Change the outputs of modules, (N, C, …) or tuples with the output first."""

    def hook(change: Change) -> Callable[[nn.Module, Any, Any], Any]:
        def apply(_: nn.Module, __: Any, output: Any) -> Any:
            return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

        return apply

    handles: list[RemovableHandle] = []
    try:
        handles += [module.register_forward_hook(hook(change)) for module, change in changes.items()]
        yield
    finally:
        for handle in handles:
            handle.remove()
