"""Inert parts: attention that a network is named for, but that its answers do not depend on."""

from collections.abc import Sequence
from types import MappingProxyType

from model.contract import Lesion
from model.parts import BLOCKS_PART, CROSS_SCALE_PART, MLKA_PART, POOLING_GATES_PART, POOLING_PART
from training.networks.build import Network
from training.run import Evaluation

#: Part → smallest share of answers that must change when the part is replaced by its mean.
#:
#: Gates are in every block, so most of a network depends on them; cross-scale attention and the weighting of the
#: pooling act in one place. 5 % and 1 % are conventions: clearly more than close calls explain.
LEAST_CHANGED = MappingProxyType(
    {MLKA_PART: 0.05, BLOCKS_PART: 0.05, POOLING_GATES_PART: 0.01, POOLING_PART: 0.01, CROSS_SCALE_PART: 0.01}
)
#: Parts without which the maps are not attention that the answers depend on.
_MAPS = frozenset({MLKA_PART, POOLING_GATES_PART, POOLING_PART})


#: With fewer calibration pictures, a part that changes 3 % of the answers may change none of these.
FEW_PICTURES = 100


class InertError(ValueError):
    """An export was refused, because parts are inert or were not measured.

    Attributes:
        lesions: of the inert parts; empty if parts were not measured.
    """

    def __init__(self, reason: str, lesions: Sequence[Lesion] = ()) -> None:
        super().__init__(reason)
        self.lesions = tuple(lesions)


def inert_parts(net: Network, evaluation: Evaluation) -> tuple[Lesion, ...]:
    """Lesions of the parts that change fewer answers than LEAST_CHANGED.

    Raises:
        InertError: the evaluation does not contain the lesions of this network's parts.
    """
    lesions = evaluation.lesions or ()
    measured = {lesion.part for lesion in lesions}
    if missing := [part for part in net.parts() if part not in measured]:
        raise InertError(
            f"the evaluation contains no lesion of {', '.join(missing)}; run `marrowlens-train evaluate` again"
        )
    return tuple(lesion for lesion in lesions if lesion.changed < LEAST_CHANGED.get(lesion.part, 0.0))


def check_not_inert(inert: Sequence[Lesion]) -> None:
    """Check that no part is inert.

    Raises:
        InertError: one is; names the part, what it changes, the threshold, and what to do.
    """
    if inert:
        found = "; ".join(
            f"{effect(lesion)}, at least {LEAST_CHANGED[lesion.part]:.0%} is required" for lesion in inert
        )
        few = min(lesion.n for lesion in inert)
        doubt = f" {few} calibration pictures are few: more would tell." if few < FEW_PICTURES else ""
        raise InertError(
            f"{found}.{doubt} Train a network with attention that its answers depend on, or export with --allow-inert: "
            "manifest and model card then name the inert parts",
            inert,
        )


def effect(lesion: Lesion) -> str:
    """What a lesion changed, as a clause."""
    return f"replacing {lesion.part} by its mean output changes {lesion.changed:.1%} of {lesion.n} answers"


def serves_attention(net: Network, inert: Sequence[Lesion]) -> bool:
    """Whether the graph has the output `attention`: gates, and a weighting if there is one, that change answers."""
    return MLKA_PART in net.parts() and not _MAPS & {lesion.part for lesion in inert}
