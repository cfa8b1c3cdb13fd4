"""Evidence against Captum: gradient times activation at the maps that are pooled, position by position.

For a linear head over an average, gradient times activation is the contribution of each position to the logit
(Ancona et al. 2018, arXiv 1711.06104, section 2.1), which is what `evidence` says of itself.
"""

import pytest
import torch
from captum.attr import FeatureAblation, InputXGradient
from torch import Tensor, nn

from model.heads import answer, pooled


def maps(seed: int, *sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, channels, side, side, generator=generator) for channels, side in sizes]


@pytest.mark.parametrize("sizes", [((6, 4),), ((6, 8), (4, 4)), ((3, 8), (4, 4), (5, 2))])
def test_evidence_is_gradient_times_activation(sizes: tuple[tuple[int, int], ...]) -> None:
    features = maps(1, *sizes)
    head = nn.Linear(sum(channels for channels, _ in sizes), 5)
    weighting = torch.full((2, 1, 8, 8), 1 / 64)
    side = sizes[0][1]
    for code in range(5):
        found = answer(head, features, weighting).evidence[:, code].detach()
        shares = InputXGradient(lambda *each: answer(head, each, weighting).logits).attribute(
            tuple(each.requires_grad_() for each in features), target=code
        )
        # A gradient of the logit is that of a mean: times the positions of its map it is that of a position.
        expected = sum(
            nn.functional.interpolate(share.sum(dim=1, keepdim=True) * share.shape[2] ** 2, side)[:, 0]
            for share in shares
        )
        assert torch.allclose(found, expected.detach(), atol=1e-5)


def test_with_attention_a_position_without_its_feature_loses_its_evidence() -> None:
    """Captum removes the features of one position at a time; the logit falls by that position's weighted evidence."""
    (feature,), head = maps(2, (6, 4)), nn.Linear(6, 5)
    weighting = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    weighting = weighting / weighting.sum(dim=(2, 3), keepdim=True)

    def logits(map: Tensor) -> Tensor:
        return answer(head, [pooled(map, weighting)], weighting).logits

    positions = torch.arange(16).view(1, 1, 4, 4).expand(1, 6, 4, 4)
    for code in range(5):
        lost = FeatureAblation(logits).attribute(feature, target=code, feature_mask=positions)[:, 0]
        evidence = answer(head, [pooled(feature, weighting)], weighting).evidence[:, code]
        assert torch.allclose(lost, evidence.detach() / 16, atol=1e-5)
