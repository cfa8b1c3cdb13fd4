"""The weights that a training begins with: random ones made fit to grow, or what fits of others'.

Knows which tensor takes which. Knows no files' layouts and no pictures. A tensor of another shape stays as it was made,
and is counted; of the head, the rows of the classes come along that both sides know.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.lite import LiteMLKA
from model.van import VAN
from training.config import Config, ModelConfig
from training.fit.weight_files import InitialError, Origin, State, read_origin
from training.networks.build import build

HEAD = ("head.weight", "head.bias")


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken over: tensors, of how many; the names of those left as they were made; rows of the head."""

    taken: int
    left: tuple[str, ...]
    classes: tuple[str, ...] | None = None  # whose rows came along; None: the head came whole, or not at all

    def __str__(self) -> str:
        names = ", ".join(self.left[:6]) + (", …" if len(self.left) > 6 else "")
        said = f"{self.taken} of {self.taken + len(self.left)} tensors" + (f"; made anew: {names}" if names else "")
        return said + (f"; of the head, the rows of {', '.join(self.classes)}" if self.classes else "")


def begin(net: nn.Module, config: Config) -> Taken | None:
    """Give a network the weights that its training begins with; None where `model.init` names none to take over.

    Raises:
        InitialError: see `take_over`.
    """
    if isinstance(net, VAN | LiteMLKA):
        net.clear_beyond(min((size for _, size in config.fit.sizes), default=config.model.input_size))
    return take_over(net, config.model, config.codes) if config.model.init else None


def check_origin(config: Config) -> str | None:
    """Return when a training can begin with what `model.init` names; reads the weights, and no picture.

    Returns:
        What a person may want to change nevertheless.

    Raises:
        InitialError: see `take_over`.
    """
    model = config.model
    if not model.init:
        return None
    origin = read_origin(model.init, model.variant)
    with torch.device("meta"):
        own = build(model, len(config.codes)).state_dict()
    _taken(own, origin, model, config.codes)
    size = origin.known.model.get("input_size", model.input_size)
    if size == model.input_size:
        return None
    return (
        f"{model.init} was learned at {size} px, this run trains at {model.input_size}; the same is input_size = {size}"
    )


def take_over(net: nn.Module, model: ModelConfig, codes: Sequence[str]) -> Taken:
    """Load what fits of `model.init` into a network.

    Args:
        codes: of the network's classes, in logit order. Where the origin's are known too, a row of the head is taken
            for the class that it was learned for; where they are not, the head is taken if it has the same shape.

    Raises:
        InitialError: it cannot be read, was learned from pictures of another mean and deviation, or not one tensor
            fits: with all the lines that would make it fit.
    """
    own = net.state_dict()
    fitting, taken = _taken(own, read_origin(model.init, model.variant), model, codes)
    net.load_state_dict({**own, **fitting})
    return taken


def _taken(own: State, origin: Origin, model: ModelConfig, codes: Sequence[str]) -> tuple[State, Taken]:
    """What of an origin takes which place in a network of these tensors.

    Raises:
        InitialError: see `take_over`.
    """
    rows, classes = _rows_by_class(own, origin, codes)
    state = {**origin.state, **rows}
    fitting = {name: _whole(name, state, own) for name in own if name in state}
    fitting = {name: tensor for name, tensor in fitting.items() if tensor.shape == own[name].shape}
    if classes == () or not fitting.keys() >= set(HEAD):  # half a head says nothing
        fitting = {name: tensor for name, tensor in fitting.items() if name not in HEAD}
    counted = [name for name in own if not name.endswith("num_batches_tracked")]
    left = tuple(name for name in counted if name not in fitting)
    _check_fit(origin, model, none_fits=len(left) == len(counted))
    return fitting, Taken(len(counted) - len(left), left, classes)


def _check_fit(origin: Origin, model: ModelConfig, none_fits: bool) -> None:
    """Raises InitialError with everything that is off at once, and the lines to paste."""
    known, wrong, lines = origin.known, [], []
    if none_fits:
        wrong.append(f"not one of its {len(origin.state)} tensors fits {model.variant!r}")
        named, *changes = str(known.model.get("variant", "")).split("+")
        lines += [f"variant = {named!r}".replace("'", '"')] if named else []
        lines += [f"# {change}, changed about it" for change in changes]
    if known.mean_and_std and known.mean_and_std != (model.mean, model.std):
        wrong.append("it was learned with other pictures' scaling")
        lines += [f"{key} = {list(three)}" for key, three in zip(("mean", "std"), known.mean_and_std, strict=True)]
    if wrong and known.model.get("input_size", model.input_size) != model.input_size:
        lines.append(f"input_size = {known.model['input_size']}")
    if wrong:
        paste = "".join(f"\n    {line}" for line in lines)
        advice = f"; set under [model]:{paste}" if lines else ""
        raise InitialError(f"{model.init} ({known.title}): {', and '.join(wrong)}{advice}")


def _rows_by_class(own: State, origin: Origin, codes: Sequence[str]) -> tuple[State, tuple[str, ...] | None]:
    """The head with the rows of the classes that both sides know, and which these are; none where the lists are one."""
    fits = all(name in origin.state and origin.state[name].shape[1:] == own[name].shape[1:] for name in HEAD)
    known = origin.known.codes
    if not fits or known is None or known == tuple(codes):
        return {}, None
    both = [(row, known.index(code)) for row, code in enumerate(codes) if code in known]
    heads = {name: own[name].clone() for name in HEAD}
    for row, theirs in both:
        for name, head in heads.items():
            head[row] = origin.state[name][theirs]
    return heads, tuple(codes[row] for row, _ in both)


def _whole(name: str, state: State, own: State) -> Tensor:
    """The tensor of this name; a dilated kernel that was cut for a small map, with zeros where it had no say."""
    found, wanted = state[name], own[name]
    before = name.replace("conv_spatial", "conv0")  # the first kernel of the same LKA says whether it is of one scale
    if not name.endswith("conv_spatial.weight") or before not in state or state[before].shape != own[before].shape:
        return found
    rows, columns = ((w - f) // 2 for w, f in zip(wanted.shape[2:], found.shape[2:], strict=True))
    return nn.functional.pad(found, (columns, columns, rows, rows)) if min(rows, columns) >= 0 else found
