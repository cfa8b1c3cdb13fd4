"""All networks of a configuration: changes to a VAN variant, and the comparison networks."""

from itertools import cycle
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from minimal_config import MINIMAL
from pydantic import ValidationError

from examples import examples
from model.attention import KERNELS
from model.channel import CHANNEL_ATTENTIONS, add_channel_attention
from model.van import VAN, VARIANTS, Variant
from training.config import ChannelAttention, Config, ConfigError, ModelConfig, Scale, Stem, read_config
from training.export.export import Servable, check_graph, to_onnx
from training.networks.build import COMPARISON_NETWORKS, NETWORKS, build, van_variant, variant_title
from training.networks.build import check_model as check_network
from training.networks.dagdnet import DAGDNetLike
from training.networks.trunks import PooledClassifier

CLASSES = 5
LKA = ("5-7-1",)
CHANGES = (
    {"stem": "overlap"},
    {"fusion": False},
    {"fusion": False, "stem": "overlap", "scales": (LKA,) * 4},
    {"scales": (("3-5-1", "7-9-1"), LKA, tuple(KERNELS), LKA)},
    {"depths": (1, 2, 1, 1), "mlp_ratios": (2, 1, 3, 1), "embed_dims": (48, 48, 96, 48)},
    *({"channel_attention": name} for name in CHANNEL_ATTENTIONS),
)
#: Too slow for a test; a smaller variant is tested for each.
HEAVY = {"resnext50", "densenet121", "dagdnet121", "efficientnet_lite1", "efficientnet_lite2", "dagdnet"}


def _changed(**changes: object) -> ModelConfig:
    return ModelConfig(variant="micro", **changes)  # type: ignore[arg-type]


def _pictures(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(size))


def _awake(net: torch.nn.Module) -> None:
    """Parameters as after a training: none at its initial zero or constant."""
    for name, parameter in net.named_parameters():
        if parameter.ndim == 1 or "layer_scale" in name or not parameter.any():
            torch.nn.init.normal_(parameter, mean=0.5 * ("weight" in name or "scale" in name), std=0.2)


def _holds_the_contract(net: VAN | PooledClassifier, size: int) -> None:
    """Shapes, gradients to every parameter, batch independence, and the sum rule of the evidence."""
    _awake(net)
    pictures = _pictures(4, size)
    net.train()(pictures).logits.square().sum().backward()
    # A softmax ignores a constant added to all inputs: the bias before GC's has a gradient from rounding only.
    named = [(n, p) for n, p in net.named_parameters() if not n.endswith("channel_attention.conv_attn.bias")]
    assert [n for n, p in named if p.grad is None or not p.grad.abs().sum() > 0] == []
    with torch.inference_mode():
        together, alone = net.eval()(pictures), net(pictures[2:3])
    for name, tensor, lone in zip(together._fields, together, alone, strict=True):
        assert torch.isfinite(tensor).all(), name
        torch.testing.assert_close(tensor[2:3], lone, atol=2e-4, rtol=2e-4, msg=name)
    assert together.logits.shape == (4, CLASSES)
    assert together.attention.shape[1] == len(net.attention_scales)
    assert 0 <= together.attention.min() and together.attention.max() <= 1
    assert together.embedding.shape == (4, net.head.in_features)
    sums = together.evidence.mean(dim=(2, 3)) + net.head.bias
    torch.testing.assert_close(sums, together.logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: "+".join(map(str, changes.values())))
def test_every_switch_gives_a_network_that_holds_the_contract(changes: dict[str, object]) -> None:
    torch.manual_seed(0)
    _holds_the_contract(build(_changed(**changes), CLASSES), size=64)


@pytest.mark.parametrize("name", sorted(set(COMPARISON_NETWORKS) - HEAVY))
def test_comparison_networks_hold_the_contract(name: str) -> None:
    torch.manual_seed(0)
    _holds_the_contract(build(ModelConfig(variant=name), CLASSES), size=64)


def test_dagdnet_holds_the_contract() -> None:
    torch.manual_seed(0)
    _holds_the_contract(DAGDNetLike((1, 2, 1, 2), 8, CLASSES), size=64)


@pytest.mark.parametrize("name", sorted(HEAVY))
def test_heavy_networks_can_be_built(name: str) -> None:
    with torch.device("meta"):
        net = COMPARISON_NETWORKS[name](CLASSES, 0.0)
    assert net.head.out_features == CLASSES


def test_asaenet_has_no_parameter_more_than_its_backbone_and_hides_in_training_alone() -> None:
    torch.manual_seed(0)
    net, backbone = build(ModelConfig(variant="asaenet"), CLASSES), build(ModelConfig(variant="resnet18"), CLASSES)
    assert {n: p.shape for n, p in net.named_parameters()} == {n: p.shape for n, p in backbone.named_parameters()}
    maps = torch.rand(200, 8, 6, 6) + 0.1
    hidden = (net.attend.train()(maps)[0] == 0).all(dim=1).flatten(1)  # type: ignore[union-attr, operator]
    assert 60 < hidden.any(dim=1).sum() < 140  # half of the pictures
    assert hidden[hidden.any(dim=1)].float().mean() < 0.5  # only the peak
    assert (net.attend.eval()(maps)[0] > 0).all()  # type: ignore[union-attr, operator]


def test_samfn_filters_maps_by_what_they_show() -> None:
    """Among uniform maps and one with the peak of most, the peaked one is kept."""
    torch.manual_seed(0)
    net = build(ModelConfig(variant="samfn"), CLASSES)
    filtering = net.filter.eval()  # type: ignore[union-attr, operator]
    filtering.initial = torch.nn.Identity()
    maps = torch.full((1, 32, 4, 4), -2.0)
    maps[:, :20, 1, 1] = 4.0
    kept = filtering(maps).flatten(2).amax(dim=2)[0] > 0
    assert kept[:20].all() and not kept[20:].any()


class _Serving(Servable):
    """The exported module of a network without a configuration."""

    def __init__(self, net: VAN | PooledClassifier) -> None:
        config = Config.model_validate(
            {
                "name": "parity",
                "version": "0.0.1",
                "data": {"sources": [{"name": "x", "folder": "x", "licence": "x", "attribution": "x"}]},
                "card": {"intended_use": "tests", "licence": "x"},
            }
        )
        super().__init__(net, config, 1.3)


def _every_channel_attention() -> VAN:
    """MLKA, MCNN stem and fusion, with another channel attention in each of six blocks."""
    kinds = cycle(CHANNEL_ATTENTIONS)
    numbers = Variant(**(vars(VARIANTS["micro"]) | {"depths": (2, 2, 1, 1)}))
    return VAN(numbers, CLASSES, add_channel_attention=lambda block: add_channel_attention(block, next(kinds)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        _every_channel_attention,
        lambda: build(_changed(fusion=False, stem="overlap", scales=(LKA,) * 4), CLASSES),
        lambda: DAGDNetLike((1, 2, 1, 2), 8, CLASSES),
        lambda: build(ModelConfig(variant="asaenet"), CLASSES),
        lambda: build(ModelConfig(variant="samfn"), CLASSES),
    ],
    ids=["mlka-mcnn-fusion-channel", "lka-overlap", "dagdnet", "asaenet", "samfn"],
)
def test_onnxruntime_answers_as_torch_does(make: object) -> None:
    torch.manual_seed(0)
    net = make()  # type: ignore[operator]
    _awake(net)
    serving = _Serving(net.eval()).eval()
    graph = to_onnx(serving, 64)
    check_graph(graph.SerializeToString(), serving, 64)
    kept = {initial.name for initial in graph.graph.initializer}
    named = {f"net.{name}" for name in net.state_dict() if not name.endswith("num_batches_tracked")}
    assert named <= kept  # complete and by name: the artefact can initialise a training


def test_an_unchanged_variant_is_titled_by_its_name() -> None:
    for name in NETWORKS:
        assert variant_title(ModelConfig(variant=name)) == name
    for name, numbers in VARIANTS.items():
        as_it_is = {k: v for k, v in vars(numbers).items() if k != "fusion_dim"}
        assert van_variant(ModelConfig(variant=name)) == numbers
        assert variant_title(ModelConfig(variant=name, fusion=numbers.fusion_dim > 0, **as_it_is)) == name


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"channel_attention": "se"}, "micro+channel_attention=se"),
        ({"fusion": False, "depths": (1, 1, 3, 1)}, "micro+depths=1-1-3-1+fusion_dim=0"),
        ({"scales": (LKA, LKA, ("3-5-1", "5-7-1"), LKA)}, "micro+scales=5-7-1/5-7-1/3-5-1,5-7-1/5-7-1"),
        ({"embed_dims": (48, 96, 192, 48)}, "micro+embed_dims=48-96-192-48+fusion_dim=192"),
    ],
)
def test_a_changed_variant_says_what_is_changed(changes: dict[str, object], says: str) -> None:
    assert variant_title(_changed(**changes)) == says


def _four(of: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, ...]]:
    return st.just(()) | st.tuples(of, of, of, of)


_stage_scales = st.lists(st.sampled_from(sorted(KERNELS)), min_size=1, unique=True).map(tuple)
_configurations = st.builds(
    ModelConfig,
    variant=st.sampled_from(["micro", "tiny"]),
    stem=st.sampled_from([None, "mcnn", "overlap"]),
    fusion=st.sampled_from([None, True, False]),
    scales=st.just(()) | st.tuples(*[_stage_scales] * 4),
    channel_attention=st.sampled_from(["none", *CHANNEL_ATTENTIONS]),
    depths=_four(st.integers(1, 3)),
    mlp_ratios=_four(st.integers(1, 4)),
    embed_dims=_four(st.sampled_from([48, 96, 144])),
)


@settings(max_examples=examples(60))
@given(_configurations, _configurations)
def test_two_networks_have_one_title_only_if_they_are_one(first: ModelConfig, second: ModelConfig) -> None:
    same = (
        first.variant == second.variant
        and van_variant(first) == van_variant(second)
        and first.channel_attention == second.channel_attention
    )
    assert (variant_title(first) == variant_title(second)) == same


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('variant = "mikro"', "did you mean 'micro'"),
        ('variant = "resnet18"\nchannel_attention = "se"', "model.channel_attention applies to VAN variants only"),
        ('variant = "van_b0"\nchannel_attention = "eca"\nfusion = true', ""),
        ("embed_dims = [48, 64, 144, 192]", "width of 64 cannot be split evenly among the 3 scales"),
        ('variant = "van_b0"\nstem = "mcnn"', "width of 32 cannot be split evenly among the three branches"),
    ],
)
def test_what_cannot_be_built_is_found_before_any_picture_is_read(tmp_path: Path, line: str, says: str) -> None:
    model = read_config(_written(tmp_path, line)).model
    if not says:
        return check_network(model)
    with pytest.raises(ValueError, match=says):
        check_network(model)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("depths = [1, 2, 3]", "depths has 3 entries; expected 4, one per stage"),
        ("depths = [1, 2, 0, 1]", "model.depths.2: Input should be greater than or equal to 1"),
        ('scales = [["3-5-1"], [], ["3-5-1"], ["3-5-1"]]', "scales of stage 2 must name one or more different kernels"),
        (
            'scales = [["3-5-1", "3-5-1"], ["5-7-1"], ["3-5-1"], ["3-5-1"]]',
            "scales of stage 1 must name one or more different kernels",
        ),
        ('scales = [["3-5"], ["5-7-1"], ["3-5-1"], ["3-5-1"]]', "model.scales.0.0: Input should be '3-5-1'"),
        ('channel_attention = "sse"', "model.channel_attention: Input should be 'none', 'se', 'eca'"),
        ('stems = "mcnn"', "did you mean 'stem'"),
    ],
)
def test_what_makes_no_sense_is_said_with_its_key(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_config(_written(tmp_path, line))
    assert says in str(refused.value)


def _written(folder: Path, model: str) -> Path:
    path = folder / "run.toml"
    path.write_text(f"{MINIMAL}\n[model]\n{model}\n")
    return path


def test_the_configuration_knows_what_the_network_knows() -> None:
    assert get_args(Scale) == tuple(KERNELS)
    assert set(get_args(ChannelAttention)) == {"none", *CHANNEL_ATTENTIONS}
    assert set(get_args(Stem)) == {numbers.stem for numbers in VARIANTS.values()}


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError):
        ModelConfig(embed_dims=(48, 48, 48, "wide"))  # type: ignore[arg-type]
