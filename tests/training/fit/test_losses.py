"""Class imbalance: sampling, logit adjustment, class weights, and classes without pictures."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from model.heads import VANOutput
from training.config import FitConfig
from training.fit.losses import LabelLoss, class_counts, effective_number, localisation_loss, sampling_weights

LABELS = np.array([0] * 80 + [1] * 16 + [3] * 4)  # class 2 of 4 has no picture
ONES = np.ones(len(LABELS))
COUNTS = class_counts(LABELS, ONES, 4)


def _config(**settings: object) -> FitConfig:
    return FitConfig(**{"label_smoothing": 0.0, **settings})


def _shares(weights: np.ndarray) -> list[float]:
    return (class_counts(LABELS, weights, 4) / weights.sum()).round(4).tolist()


def test_sampling_draws_classes_alike_at_power_one_and_by_the_root_at_a_half() -> None:
    assert _shares(sampling_weights(LABELS, ONES, 4, _config())) == [0.8, 0.16, 0, 0.04]
    balanced = sampling_weights(LABELS, ONES, 4, _config(imbalance="sampling"))
    assert balanced.sum() == pytest.approx(100)
    assert _shares(balanced) == [0.3333, 0.3333, 0, 0.3333]
    rooted = class_counts(
        LABELS, sampling_weights(LABELS, ONES, 4, _config(imbalance="sampling", imbalance_power=0.5)), 4
    )
    assert rooted[0] / rooted[3] == pytest.approx(20**0.5)


def test_sampling_leaves_the_sources_of_one_class_in_proportion() -> None:
    weights = np.where(np.arange(len(LABELS)) % 2, 0.4, 1.0)
    drawn = sampling_weights(LABELS, weights, 4, _config(imbalance="sampling"))
    assert drawn.sum() == pytest.approx(weights.sum())
    assert drawn[1] / drawn[0] == pytest.approx(0.4)


def test_effective_numbers_level_off() -> None:
    counts = np.array([0.0, 1, 10, 100_000])
    assert effective_number(counts, 1.0).tolist() == counts.tolist()
    assert effective_number(counts, 0.9).round(3).tolist() == [0, 1, 6.513, 10]
    # With this beta, more than a hundred pictures count like a hundred: the two large classes are equal.
    labels = np.repeat([0, 1, 2], [9000, 900, 9])
    config = _config(imbalance="sampling", imbalance_beta=0.99)
    shares = class_counts(labels, sampling_weights(labels, np.ones(len(labels)), 3, config), 3)
    assert shares[0] / shares[1] == pytest.approx(10, rel=0.01)


def test_logit_adjustment_adds_the_log_of_the_shares_in_the_loss_alone() -> None:
    """For an uninformative picture the best logits are equal; without adjustment, the log of the class shares."""
    loss = LabelLoss(COUNTS, _config(imbalance="logit_adjustment"))
    logits = torch.zeros(1, 4, requires_grad=True)
    labels = torch.from_numpy(LABELS)
    present = [0, 1, 3]
    loss(logits.expand(100, -1), labels).backward()
    # Class 2 counts as frequent as the largest class; the others keep their ratios.
    share = F.softmax(torch.tensor([0.8, 0.16, 0.8, 0.04]).log(), dim=0)
    assert torch.allclose(logits.grad[0], share - torch.tensor([0.8, 0.16, 0, 0.04]), atol=1e-6)
    assert logits.grad[0, 2] > 0.4  # so its logit falls
    gone = torch.tensor([[0.0, 0.0, -1e3, 0.0]], requires_grad=True)
    loss(gone.expand(100, -1), labels).backward()
    assert gone.grad[0, present].abs().max() < 1e-6


def test_loss_weights_give_every_class_the_same_say() -> None:
    loss = LabelLoss(COUNTS, _config(imbalance="loss_weights"))
    logits = torch.zeros(100, 4, requires_grad=True)
    loss(logits, torch.from_numpy(LABELS)).backward()
    says = [logits.grad[LABELS == c].abs().sum().item() for c in (0, 1, 3)]
    assert says == pytest.approx([says[0]] * 3)
    assert loss(torch.zeros(100, 4), torch.from_numpy(LABELS)).item() == pytest.approx(np.log(4))


def test_nothing_asked_is_the_plain_smoothed_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(100, 4), torch.from_numpy(LABELS)
    plain = F.cross_entropy(logits, labels, label_smoothing=0.1)
    assert LabelLoss(COUNTS, _config(label_smoothing=0.1))(logits, labels).item() == pytest.approx(plain.item())
    mixed = torch.softmax(torch.randn(100, 4), dim=1)
    assert LabelLoss(COUNTS, _config())(logits, mixed).item() == pytest.approx(F.cross_entropy(logits, mixed).item())


@given(
    st.lists(st.integers(0, 10_000), min_size=2, max_size=21).filter(any),
    st.sampled_from(["none", "sampling", "logit_adjustment", "loss_weights"]),
    st.floats(0, 2),
    st.sampled_from([1.0, 0.999, 0.0]),
)
def test_classes_without_pictures_leave_every_number_finite(
    counts: list[int], imbalance: str, power: float, beta: float
) -> None:
    config = _config(imbalance=imbalance, imbalance_power=power, imbalance_beta=beta, label_smoothing=0.1)
    loss = LabelLoss(np.array(counts, dtype=np.float64), config)
    logits = torch.zeros(len(counts), len(counts), requires_grad=True)
    value = loss(logits, torch.arange(len(counts)))
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()
    assert loss.adjustment.isfinite().all() and (loss.weight > 0).all()


def test_a_class_without_pictures_is_pushed_down_as_far_as_the_largest() -> None:
    for imbalance in ("logit_adjustment", "loss_weights"):
        loss = LabelLoss(COUNTS, _config(imbalance=imbalance))
        assert loss.adjustment[2] == loss.adjustment[0] == loss.adjustment.max()
        assert loss.weight[2] == loss.weight[0] == loss.weight.min()


def test_localisation_is_the_share_of_both_maps_outside_the_mask() -> None:
    masks = torch.zeros(2, 1, 8, 8)
    masks[:, :, :, :4] = 1  # the left half
    attention, evidence = torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 2, 2)
    attention[:, :, 0, 0], attention[:, :, 0, 3] = 3.0, 1.0  # a quarter is outside
    evidence[:, 2, 0, 0], evidence[:, 2, 1, 1], evidence[:, 2, 0, 1] = 1.0, 1.0, -5.0  # half of the positive part
    evidence[:, 1, 0, 1] = 9.0  # of another class
    out = VANOutput(torch.zeros(2, 5), attention, evidence, torch.zeros(2, 7))
    labels = F.one_hot(torch.tensor([2, 2]), 5).float()
    assert localisation_loss(out, labels, masks).item() == pytest.approx((0.25 + 0.5) / 2, abs=1e-3)
    out.evidence.requires_grad_()
    localisation_loss(out, labels, masks).backward()
    assert out.evidence.grad is not None and not out.evidence.grad[:, 1].any()
