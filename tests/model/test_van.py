"""The network, every variant: shapes, gradients, independence of the batch, the sum rule, published sizes."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from model.heads import CrossScaleAttention, mean_pool
from model.van import VAN, VARIANTS, Variant

CLASSES = 21
REQUIRED = {"tiny", "van_b0", "van_b1", "van_b2", "van_b3", "mlka_s", "mlka_m", "mlka_l"}


def _pictures(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(size))


@pytest.fixture(scope="module", params=sorted(VARIANTS))
def network(request: pytest.FixtureRequest) -> VAN:
    torch.manual_seed(0)
    return VAN(request.param, CLASSES).eval()


def test_every_variant_of_the_design_exists() -> None:
    assert set(VARIANTS) >= REQUIRED


@pytest.mark.parametrize("size", [32, 64])
@torch.inference_mode()
def test_output_shapes(network: VAN, size: int) -> None:
    out = network(_pictures(2, size))
    scales = len(network.attention_scales)
    assert out.logits.shape == (2, CLASSES)
    gated, read = size // (8 if scales > 1 else 32), size // (16 if network.fusion else 32)
    assert out.attention.shape == (2, scales, gated, gated)
    assert out.evidence.shape == (2, CLASSES, read, read)
    assert out.embedding.shape == (2, network.head.in_features)
    assert all(torch.isfinite(tensor).all() for tensor in out)


@torch.inference_mode()
def test_evidence_sums_to_the_logits(network: VAN) -> None:
    out = network(_pictures(3, 32))
    torch.testing.assert_close(out.evidence.mean(dim=(2, 3)) + network.head.bias, out.logits, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_attention_is_scaled_picture_by_picture_and_scale_by_scale(network: VAN) -> None:
    attention = network(_pictures(2, 64)).attention.flatten(2)
    torch.testing.assert_close(attention.amin(dim=2), torch.zeros_like(attention[..., 0]))
    torch.testing.assert_close(attention.amax(dim=2), torch.ones_like(attention[..., 0]))


@torch.inference_mode()
def test_a_picture_does_not_know_its_neighbours(network: VAN) -> None:
    pictures = _pictures(4, 32)
    together, alone = network(pictures), network(pictures[2:3])
    for name, tensor, lone in zip(together._fields, together, alone, strict=True):
        torch.testing.assert_close(tensor[2:3], lone, atol=1e-4, rtol=1e-4, msg=name)


def test_a_gradient_reaches_every_parameter(network: VAN) -> None:
    network(_pictures(2, 32)).logits.square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(
    ("name", "parameters", "multiply_adds"),
    # arXiv 2202.09741, section 3.2, to the digits that mmpretrain counts. Stem, head (here of 1000 classes) and stages
    # are the published ones; our evidence maps are a second use of the head's weights on each of the 7 x 7 positions,
    # 0.013 G for van_b0, which is why two per cent of slack are needed and enough.
    [
        ("van_b0", 4.11e6, 0.88e9),
        ("van_b1", 13.86e6, 2.52e9),
        ("van_b2", 26.58e6, 5.03e9),
        ("van_b3", 44.77e6, 8.99e9),
    ],
)
def test_published_sizes(name: str, parameters: float, multiply_adds: float) -> None:
    with torch.device("meta"):
        network = VAN(name, 1000).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, 224, 224))
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, rel=0.002)
    assert counter.get_total_flops() / 2 == pytest.approx(multiply_adds, rel=0.02)


@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("van_")])
def test_each_third_of_an_mlka_fills_blocks_of_16_channels(name: str) -> None:
    assert all(dim % 48 == 0 for dim in VARIANTS[name].embed_dims)


def _numbers(**changes: object) -> Variant:
    return Variant(**(vars(VARIANTS["micro"]) | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        (_numbers(embed_dims=(48, 64, 48, 48)), "width of 64 cannot be split evenly among the 3 scales"),
        (_numbers(embed_dims=(32, 48, 48, 48)), "width of 32 cannot be split evenly among the three branches"),
        (_numbers(fusion_dim=50), "50 is not a multiple of the head width 48"),
        ("tyni", "unknown variant 'tyni'; did you mean tiny"),
        ("van_b9", "did you mean van_b"),
    ],
)
def test_what_cannot_be_built_is_said_in_a_sentence(variant: Variant | str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VAN(variant, CLASSES)


def test_a_size_that_leaves_a_fraction_of_a_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        VAN("micro", CLASSES)(_pictures(1, 100))


def test_drop_path_spares_evaluation_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    network = VAN("micro", CLASSES, drop_path=0.5)
    pictures = _pictures(2, 64)
    assert torch.equal(network.eval()(pictures).logits, network(pictures).logits)
    drop = network.stages[3].blocks[0].drop_path.train()
    ones = torch.ones(4000, 1, 1, 1)
    assert set(drop(ones).unique().tolist()) == {0.0, 2.0}
    assert drop(ones).mean().item() == pytest.approx(1.0, abs=0.1)


@torch.inference_mode()
def test_cross_scale_attention_is_scaled_dot_product_attention_of_pooled_maps() -> None:
    torch.manual_seed(0)
    fusion = CrossScaleAttention((24, 40, 96, 320), 96).double()
    sides = zip((24, 40, 96, 320), (16, 8, 4, 2), strict=True)
    maps = [torch.randn(2, dim, side, side, dtype=torch.float64) for dim, side in sides]
    others = [F.avg_pool2d(maps[0], 4), F.avg_pool2d(maps[1], 2), maps[3]]

    def tokens(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2).unflatten(1, (fusion.heads, -1)).transpose(2, 3)

    pairs = [project(x).chunk(2, dim=1) for project, x in zip(fusion.key_value, others, strict=True)]
    keys, values = (torch.cat([tokens(pair[half]) for pair in pairs], dim=2) for half in (0, 1))
    answers = F.scaled_dot_product_attention(tokens(fusion.query(maps[2])), keys, values)
    answers = answers.transpose(2, 3).flatten(1, 2).unflatten(2, (4, 4))
    upsampled = F.interpolate(fusion.top_down(maps[3]), scale_factor=2.0, mode="nearest")
    expected = fusion.norm(fusion.lateral(maps[2]) + upsampled + fusion.answer(answers))
    torch.testing.assert_close(fusion(maps), expected, atol=1e-9, rtol=1e-9)


def test_mean_pool_is_average_pooling() -> None:
    maps = torch.randn(2, 24, 8, 12, dtype=torch.float64)
    torch.testing.assert_close(mean_pool(maps, 4), F.avg_pool2d(maps, 4))
