"""Providers' options as plain data: what onnxruntime would be given on a machine that has the hardware."""

import json
from pathlib import Path

import pytest

from service.runtime import providers
from service.runtime.providers import NAMES, SessionParameters, batch_sizes, candidates, configs, engine_folder

SETUP = SessionParameters(128, 2, (1, 2, 4, 8, 16))
CPU = ("CPUExecutionProvider", {})


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (16, (1, 2, 4, 8, 16)), (24, (1, 2, 4, 8, 16, 24))],
)
def test_batch_sizes_double_up_to_the_largest(largest: int, sizes: tuple[int, ...]) -> None:
    assert batch_sizes(largest) == sizes


@pytest.mark.parametrize("largest", range(1, 70))
def test_at_most_half_of_a_call_is_padding(largest: int) -> None:
    sizes = batch_sizes(largest)
    assert list(sizes) == sorted(set(sizes)) and sizes[-1] == largest
    for count in range(1, largest + 1):
        assert next(size for size in sizes if size >= count) < 2 * count


def test_what_is_asked_for_is_all_that_is_tried() -> None:
    for asked in NAMES:
        assert candidates(asked, [NAMES["cpu"]], engines_built=False) == (asked,)


def test_auto_tries_the_best_that_is_offered_and_ends_with_the_cpu() -> None:
    gpu = [NAMES["tensorrt"], NAMES["cuda"], NAMES["cpu"]]
    assert candidates("auto", gpu, engines_built=True) == ("tensorrt", "cuda", "cpu")
    assert candidates("auto", gpu, engines_built=False) == ("cuda", "cpu")  # nobody waits minutes unasked
    assert candidates("auto", [NAMES["cpu"]], engines_built=True) == ("cpu",)
    assert candidates("auto", [NAMES["openvino"], NAMES["cpu"]], engines_built=False) == ("cpu",)


def test_the_cpu_stands_alone() -> None:
    (attempt,) = configs("cpu", SETUP)
    assert attempt.providers == (CPU,)
    assert not attempt.fixed_buffers and not attempt.graphs


def test_cuda_replays_graphs_and_does_without_where_they_fail() -> None:
    best, fallback = configs("cuda", SETUP)
    name, options = best.providers[0]
    assert name == "CUDAExecutionProvider"
    assert options == {
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
        "enable_cuda_graph": "1",
    }
    assert best.providers[1:] == (CPU,)
    assert best.graphs and best.fixed_buffers and best.without is None
    assert "enable_cuda_graph" not in fallback.providers[0][1]
    assert fallback.fixed_buffers and not fallback.graphs and fallback.without == "CUDA graphs"


def test_without_batch_sizes_there_are_no_graphs_and_no_fixed_buffers() -> None:
    for provider in ("cuda", "tensorrt"):
        (attempt,) = configs(provider, SessionParameters(128, 2))
        assert not attempt.fixed_buffers and not attempt.graphs
        assert not any(name.startswith("trt_profile") for name in attempt.providers[0][1])


def test_tensorrt_builds_one_engine_for_all_batch_sizes_and_keeps_it(tmp_path: Path) -> None:
    best, fallback = configs("tensorrt", SessionParameters(128, 2, (1, 2, 4), engines=tmp_path))
    assert [name for name, _ in best.providers] == [NAMES["tensorrt"], NAMES["cuda"], NAMES["cpu"]]
    assert best.providers[0][1] == {
        "trt_fp16_enable": "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(tmp_path),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(tmp_path),
        "trt_profile_min_shapes": "image:1x128x128x3",
        "trt_profile_opt_shapes": "image:4x128x128x3",
        "trt_profile_max_shapes": "image:4x128x128x3",
    }
    assert not any(name.startswith("trt_profile") for name in fallback.providers[0][1])


def test_tensorrt_takes_half_precision_from_the_manifest_alone() -> None:
    assert providers.tensorrt_options(SessionParameters(128, 1, precision="fp16"))["trt_fp16_enable"] == "1"
    assert providers.tensorrt_options(SessionParameters(128, 1))["trt_fp16_enable"] == "0"


def test_a_profile_needs_batch_sizes() -> None:
    with pytest.raises(ValueError, match="needs batch sizes"):
        providers.tensorrt_profile(SessionParameters(128, 1))


def test_openvino_computes_in_fp32_with_the_threads_it_is_given() -> None:
    options = providers.openvino_options(SessionParameters(128, 3))
    assert options["device_type"] == "CPU"
    config = json.loads(options["load_config"])["CPU"]
    assert (config["INFERENCE_PRECISION_HINT"], config["INFERENCE_NUM_THREADS"]) == ("f32", "3")


KEY = {
    "model_sha256": "ab" * 32,
    "onnxruntime": "1.31.1",
    "tensorrt": "10.13.3",
    "gpu": "NVIDIA L4",
    "batch_sizes": (1, 2, 4),
}


def test_engines_lie_under_all_that_would_make_them_others() -> None:
    folder = engine_folder(Path("/engines"), **KEY)
    assert folder == Path("/engines/abababababababab_ort1.31.1_trt10.13.3_NVIDIA-L4_b1-2-4")
    changes = {
        "model_sha256": "cd" * 32,
        "onnxruntime": "1.32.0",
        "tensorrt": "10.14.0",
        "gpu": "T4",
        "batch_sizes": (1,),
    }
    others = {engine_folder(Path("/engines"), **(KEY | {name: value})) for name, value in changes.items()}
    assert len(others | {folder}) == len(KEY) + 1


def test_a_gpu_cannot_name_another_folder() -> None:
    assert engine_folder(Path("/engines"), **(KEY | {"gpu": "../../etc/x"})).parent == Path("/engines")


def test_engines_are_counted_in_bytes(tmp_path: Path) -> None:
    assert providers.engine_bytes(tmp_path / "missing") == 0
    (tmp_path / "timing.cache").write_bytes(bytes(9))
    assert providers.engine_bytes(tmp_path) == 0
    (tmp_path / "a.engine").write_bytes(bytes(5))
    assert providers.engine_bytes(tmp_path) == 5


def test_what_to_install_is_an_extra_of_this_package() -> None:
    for provider in NAMES:
        extra = providers.install_command(provider).split("-e '.[service,")[1].rstrip("]'")
        assert f"\n{extra} = [" in Path("pyproject.toml").read_text()


def test_half_precision_and_tensorrt_may_be_coarser() -> None:
    for provider in ("cpu", "cuda", "openvino"):
        assert providers.tolerance(provider, "fp32") == (2e-4, 2e-4, 2e-4, 2e-4)
    assert providers.tolerance("cuda", "fp16") == (5e-2, 5e-2, 5e-2, 5e-2)
    assert providers.tolerance("tensorrt", "fp32") == (5e-2, 5e-2, 5e-2, 5e-2)
    assert providers.tolerance("openvino", "fp32", "bf16") == (1e-1, 3e-1, 3e-1, 3e-1)


PAGE = Path("docs/providers.md").read_text(encoding="utf-8")


def test_the_page_on_providers_names_every_one_and_its_extra() -> None:
    for provider in NAMES:
        extra = providers.install_command(provider).split(" -e ")[1]
        assert f"| `{provider}` | " in PAGE and f"`{extra}`" in PAGE


def test_the_page_on_providers_knows_the_tolerances() -> None:
    assert f"{providers.FP32_TOLERANCE:.0e}".replace("e-0", "e-") + " in fp32" in PAGE
    assert f"{providers.COARSE_TOLERANCE:.0e}".replace("e-0", "e-") + " for fp16" in PAGE
    quarter = f"a quarter of the probe pictures may differ by up to {providers.BF16_ATTENTION_TOLERANCE:.0e}"
    assert quarter.replace("e-0", "e-") in PAGE
