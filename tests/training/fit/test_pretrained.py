"""Pretrained weights: which tensors are loaded from each source, which are not, and transfer between input sizes."""

import pickle
from pathlib import Path

import equations
import pytest
import torch
from minimal_config import MINIMAL
from safetensors.torch import save_file

from model.attention import LKA
from model.van import VAN, VARIANTS
from training.config import Config, ConfigError, ModelConfig
from training.fit.pretrained import PretrainedError, check_pretrained, initialise, load_pretrained, transfer_weights
from training.networks.build import build

B0 = VARIANTS["van_b0"]
CODES = ("BLA", "EOS", "LYT", "MON")


def _classes(codes: tuple[str, ...]) -> str:
    return "".join(f'[[classes]]\ncode = "{code}"\nname = "{code.title()}"\n' for code in codes)


def _run(folder: Path, codes: tuple[str, ...], net: torch.nn.Module, model: str = 'variant = "micro"') -> Path:
    """A run folder with the files that `weights_info` reads."""
    folder.mkdir()
    (folder / "config.toml").write_text(f"{MINIMAL}\n[model]\n{model}\n{_classes(codes)}")
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, folder / "weights.safetensors")
    return folder


def _micro(classes: int = len(CODES), seed: int = 0, **changes: object) -> VAN:
    torch.manual_seed(seed)
    net = build(ModelConfig(variant="micro", **changes), classes)  # type: ignore[arg-type]
    assert isinstance(net, VAN)
    torch.nn.init.normal_(net.head.bias)
    return net


def _from(source: Path | str, **changes: object) -> ModelConfig:
    return ModelConfig(**({"variant": "micro", "init": str(source)} | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of VAN-B0 in the published layout."""
    state = equations.published_layout(B0.embed_dims, B0.depths, B0.mlp_ratios, classes=1000)
    path = tmp_path_factory.mktemp("published") / "van_tiny_754.pth.tar"
    tensors = {name: torch.from_numpy(array).float() for name, array in state.items()}
    torch.save({"state_dict": tensors, "arch": "van_tiny", "epoch": 300}, path)
    return path


def test_all_of_a_published_checkpoint_arrives_but_its_head(published: Path) -> None:
    net = VAN("van_b0", len(CODES))
    made_anew = net.head.weight.clone()
    result = transfer_weights(net, _from(published, variant="van_b0"), CODES)
    assert result.skipped == ("head.weight", "head.bias")
    assert str(result).endswith("randomly initialised: head.weight, head.bias")
    assert torch.equal(net.head.weight, made_anew)
    state = torch.load(published, weights_only=True)["state_dict"]
    assert torch.equal(net.stages[2].blocks[4].mlp.dwconv.weight, state["block3.4.mlp.dwconv.dwconv.weight"])
    assert torch.equal(net.stages[0].blocks[0].layer_scale_2[:, 0, 0], state["block1.0.layer_scale_2"])
    assert torch.equal(net.stages[3].patch_embed.norm.running_var, state["patch_embed4.norm.running_var"])


def test_a_checkpoint_of_another_width_gives_nothing(published: Path) -> None:
    with pytest.raises(PretrainedError, match=r"none of its \d+ tensors matches 'van_b1'"):
        transfer_weights(VAN("van_b1", 1000), _from(published, variant="van_b1"), ())


class _Opened:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("opened"),)  # type: ignore[return-value]


def test_a_checkpoint_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "args": _Opened()}, tmp_path / "armed.pth")
    with pytest.raises(PretrainedError, match="weights_only=True"):
        load_pretrained(str(tmp_path / "armed.pth"), "van_b0")
    assert not Path("opened").exists()


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("weights.safetensors", b"no weights", "not a complete safetensors file"),
        ("model.onnx", b"no graph", "not an ONNX file"),
        ("model.pth", pickle.dumps(3), "weights_only=True"),
        ("none.onnx", None, "no such file; expected 'imagenet', a run folder"),
    ],
)
def test_what_holds_no_weights_is_said_in_a_sentence(tmp_path: Path, name: str, data: bytes | None, says: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(PretrainedError, match=says):
        transfer_weights(_micro(), _from(tmp_path / name), CODES)


def test_a_state_dict_that_is_none_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"epoch": 3}}, tmp_path / "model.pth")
    with pytest.raises(PretrainedError, match="holds no state_dict"):
        load_pretrained(str(tmp_path / "model.pth"), "van_b0")


def test_imagenet_is_known_for_what_can_be_installed() -> None:
    with pytest.raises(PretrainedError, match="available for efficientnet_lite0"):
        transfer_weights(_micro(), _from("imagenet"), CODES)


def test_a_run_of_the_same_classes_comes_along_whole(tmp_path: Path) -> None:
    theirs, net = _micro(seed=1), _micro(seed=2)
    result = transfer_weights(net, _from(_run(tmp_path / "run", CODES, theirs)), CODES)
    assert (result.skipped, result.head_classes) == ((), None)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), theirs.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("codes", "common"),
    [
        (("LYT", "PLM", "BLA"), {0: 2, 2: 0}),
        (("MON", "LYT", "EOS", "BLA"), {0: 3, 1: 2, 2: 1, 3: 0}),  # as many classes in another order
        (("red-line", "white-line", "other", "debris"), {}),
    ],
)
def test_of_the_head_the_rows_of_common_classes_come_along(
    tmp_path: Path, codes: tuple[str, ...], common: dict[int, int]
) -> None:
    theirs, net = _micro(seed=1), _micro(len(codes), seed=2)
    before = net.head.weight.clone()
    result = transfer_weights(net, _from(_run(tmp_path / "run", CODES, theirs)), codes)
    assert result.head_classes == tuple(codes[row] for row in common)
    for row in range(len(codes)):
        expected = theirs.head.weight[common[row]] if row in common else before[row]
        assert torch.equal(net.head.weight[row], expected)
    if common:
        assert str(result).endswith(f"head rows of {', '.join(result.head_classes)}")
    else:
        assert result.skipped == ("head.weight", "head.bias")


def test_weights_for_pictures_of_another_scaling_are_refused_with_the_lines_to_paste(tmp_path: Path) -> None:
    model = 'variant = "micro"\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]'
    run = _run(tmp_path / "run", CODES, _micro(), model)
    with pytest.raises(
        PretrainedError, match=r"set under .model.:\n    mean = \[0.5, 0.5, 0.5\]\n    std = \[0.5, 0.5, 0.5\]$"
    ):
        transfer_weights(_micro(), _from(run), CODES)
    transfer_weights(_micro(), _from(run, mean=(0.5,) * 3, std=(0.5,) * 3), CODES)


def test_another_input_size_is_no_error_but_is_said(tmp_path: Path) -> None:
    config = _config(64)
    run = _run(tmp_path / "run", config.codes, _micro(len(config.codes)), 'variant = "micro"\ninput_size = 96')
    for size, says in ((64, "was trained at 96 px, this run trains at 64; to match: input_size = 96"), (96, None)):
        model = config.model.model_copy(update={"init": str(run), "input_size": size})
        told = check_pretrained(config.model_copy(update={"model": model}))
        assert told is None if says is None else told and told.endswith(says)


def test_a_changed_network_takes_what_fits_of_the_unchanged_one(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", CODES, _micro(seed=1))
    net = _micro(seed=2, channel_attention="se", depths=(1, 2, 1, 1))
    result = transfer_weights(net, _from(run), CODES)
    assert result.skipped and all(
        ".channel_attention." in name or name.startswith("stages.1.blocks.1.") for name in result.skipped
    )


def _config(size: int, sizes: tuple[tuple[int, int], ...] = ()) -> Config:
    return Config.model_validate(
        {
            "name": "small",
            "version": "0.0.1",
            "model": {"variant": "micro", "input_size": size},
            "fit": {"sizes": sizes},
            "data": {"sources": [{"name": "x", "folder": "x", "licence": "x", "attribution": "x"}]},
            "card": {"intended_use": "tests", "licence": "x"},
        }
    )


def _pictures(size: int) -> torch.Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(size))


def _outer(net: VAN, size: int) -> list[torch.Tensor]:
    """The taps of the dilated kernels that pictures of this size do not reach."""
    smaller = [module.conv_spatial.weight.detach().clone() for module in net.modules() if isinstance(module, LKA)]
    kept = VAN("micro", net.head.out_features)
    kept.load_state_dict(net.state_dict())
    kept.clear_beyond(size)
    inner = [module.conv_spatial.weight for module in kept.modules() if isinstance(module, LKA)]
    return [whole - part for whole, part in zip(smaller, inner, strict=True)]


@torch.inference_mode()
def test_clearing_changes_nothing_at_its_size_and_something_at_a_larger_one() -> None:
    net, cleared = _micro().eval(), _micro().eval()
    cleared.clear_beyond(32)
    assert all(torch.equal(a, b) for a, b in zip(net(_pictures(32)), cleared(_pictures(32)), strict=True))
    assert not torch.equal(net(_pictures(128)).attention, cleared(_pictures(128)).attention)
    cleared.clear_beyond(1024)
    assert sum(tensor.abs().sum() for tensor in _outer(net, 1024)) == 0  # at that size every tap is used


def test_taps_that_are_never_used_stay_at_zero_in_training_and_learn_at_a_larger_size() -> None:
    net = _micro()
    initialise(net, _config(32))
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)
    for size in (32, 32, 96):
        optimiser.zero_grad()
        net(_pictures(size)).logits.square().sum().backward()
        if size == 96:
            break
        optimiser.step()
        assert all(not tensor.any() for tensor in _outer(net, 32))
    gradient = net.stages[0].blocks[0].attn.spatial_gating_unit.scales[2].attend.conv_spatial.weight.grad
    assert gradient is not None and gradient[:, :, 0, 0].abs().sum() > 0


def test_progressive_resizing_begins_within_its_smallest_size() -> None:
    growing, fixed = _micro(), _micro()
    initialise(growing, _config(64, ((0, 32), (3, 64))))
    initialise(fixed, _config(64))
    assert all(not tensor.any() for tensor in _outer(growing, 32))
    assert any(tensor.any() for tensor in _outer(fixed, 32))
    assert all(not tensor.any() for tensor in _outer(fixed, 64))


def test_what_a_run_learned_at_a_larger_size_is_not_cleared(tmp_path: Path) -> None:
    config = _config(32)
    theirs, net = (_micro(len(config.codes), seed) for seed in (1, 2))
    run = _run(tmp_path / "run", config.codes, theirs)
    initialise(net, config.model_copy(update={"model": config.model.model_copy(update={"init": str(run)})}))
    mine, kept = (
        n.stages[3].blocks[0].attn.spatial_gating_unit.scales[0].attend.conv_spatial.weight for n in (net, theirs)
    )
    assert torch.equal(mine, kept)


def test_a_run_whose_configuration_cannot_be_read_is_named(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", CODES, _micro(), "variant = ")
    with pytest.raises(ConfigError, match="config.toml: not TOML"):
        transfer_weights(_micro(), _from(run), CODES)
