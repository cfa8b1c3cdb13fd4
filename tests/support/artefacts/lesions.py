"""Lesions for exports of networks that were never evaluated."""

from training.networks.build import Network
from training.run import MeasuredLesion


def lesions(net: Network, changed: float = 0.5) -> tuple[MeasuredLesion, ...]:
    """A lesion of each part of a network, each of which changes the same share of the answers."""
    return tuple(
        MeasuredLesion(
            part=part,
            n=100,
            changed=changed,
            changed_low=0,
            changed_high=1,
            accuracy=0.5,
            accuracy_change=0,
            accuracy_change_low=-1,
            accuracy_change_high=1,
        )
        for part in net.parts()
    )
