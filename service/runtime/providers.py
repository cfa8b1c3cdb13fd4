"""What each execution provider is called, how it is set up, and what to install for it: options as plain data.

Knows names, options and folder names. Knows no onnxruntime and starts nothing, so that every option can be looked at
on a machine that lacks what it is for.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.contract import Precision
from service.config.settings import ProviderChoice

Provider = Literal["tensorrt", "cuda", "openvino", "cpu"]
Options = dict[str, str]

#: As onnxruntime calls them.
NAMES: dict[Provider, str] = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}

#: What "auto" tries, best first. Not OpenVINO: where it was measured it is slower than the CPU provider
#: (docs/providers.md), so it is for those who have measured otherwise and ask for it.
BEST_FIRST: tuple[Provider, ...] = ("tensorrt", "cuda", "cpu")

#: Largest difference of an output from the CPU's, relative to its largest value, that is rounding and nothing else.
#: Twice the contract's 1e-4 in fp32. With fp16 or TF32 inside, which TensorRT takes by itself, 11 bits are kept, and
#: the attention maps, stretched to 0..1, stretch their rounding too.
FP32_TOLERANCE = 2e-4
COARSE_TOLERANCE = 5e-2


@dataclass(frozen=True, slots=True)
class Setup:
    """What the options depend on."""

    input_size: int  # S, pixels
    intra_op_threads: int
    batch_sizes: tuple[int, ...] = ()  # ascending; empty: none is known beforehand
    precision: Precision = "fp32"
    engines: Path | None = None  # folder for this model's TensorRT engines on this machine


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to start a provider.

    `providers` is what onnxruntime takes, in order. `fixed_buffers`: calls go through buffers allocated once for each
    batch size; `graphs`: and replay a CUDA graph. `given_up` says what this attempt lacks against the one before it.
    """

    providers: tuple[tuple[str, Options], ...]
    fixed_buffers: bool = False
    graphs: bool = False
    given_up: str | None = None


def batch_sizes(largest: int) -> tuple[int, ...]:
    """The powers of two below the largest batch, and the largest: 16 gives (1, 2, 4, 8, 16), 24 (1, 2, 4, 8, 16, 24).

    A batch is padded to the next of them, so at most half of a call is padding, and a GPU knows every shape it meets.
    """
    below = [1 << power for power in range(largest.bit_length()) if 1 << power < largest]
    return (*below, largest)


def candidates(asked: ProviderChoice, offered: Collection[str], *, engines_built: bool) -> tuple[Provider, ...]:
    """What to try, in order: what was asked for and nothing else, or for "auto" the best that onnxruntime offers.

    Args:
        offered: onnxruntime's names of what its build holds.
        engines_built: whether TensorRT finds its engines. Without, "auto" leaves it out: building takes minutes.
    """
    if asked != "auto":
        return (asked,)
    wanted = (provider for provider in BEST_FIRST if provider != "tensorrt" or engines_built)
    return tuple(provider for provider in wanted if provider == "cpu" or NAMES[provider] in offered)


def attempts(provider: Provider, setup: Setup) -> tuple[Attempt, ...]:
    """Ways to start a provider, the best first. onnxruntime's CPU provider stands behind each: it computes shapes."""
    cpu = (NAMES["cpu"], Options())
    if provider == "cpu":
        return (Attempt((cpu,)),)
    if provider == "openvino":
        return (Attempt(((NAMES["openvino"], openvino_options(setup)), cpu)),)
    cuda = (NAMES["cuda"], cuda_options())
    fixed = bool(setup.batch_sizes)
    if provider == "cuda":
        plain = Attempt((cuda, cpu), fixed, given_up="CUDA graphs" if fixed else None)
        with_graphs = Attempt(((NAMES["cuda"], cuda_options(graphs=True)), cpu), fixed, graphs=True)
        return (with_graphs, plain) if fixed else (plain,)
    ranged = Attempt(((NAMES["tensorrt"], tensorrt_options(setup)), cuda, cpu), fixed)
    if not fixed:
        return (ranged,)
    profiled = Attempt(((NAMES["tensorrt"], tensorrt_options(setup) | tensorrt_profile(setup)), cuda, cpu), fixed)
    return profiled, Attempt(ranged.providers, fixed, given_up="one engine for all batch sizes")


def cuda_options(*, graphs: bool = False) -> Options:
    """onnxruntime's CUDA provider, for fixed batch sizes and the CPU's answers."""
    options = {
        "cudnn_conv_algo_search": "HEURISTIC",  # the default searches for seconds at each new batch size
        "arena_extend_strategy": "kSameAsRequested",  # memory grows by what is needed, not by powers of two
        "use_tf32": "0",  # the answers of the CPU, within the contract's 1e-4
    }
    return options | {"enable_cuda_graph": "1"} if graphs else options


def tensorrt_options(setup: Setup) -> Options:
    """onnxruntime's TensorRT provider. Engines and timings are kept where there is a folder for them."""
    options = {"trt_fp16_enable": "1" if setup.precision == "fp16" else "0"}
    if setup.engines is None:
        return options
    folder = str(setup.engines)
    return options | {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    }


def tensorrt_profile(setup: Setup) -> Options:
    """The range of shapes that one engine is built for, tuned for the largest: full batches are what is waited for.

    Raises:
        ValueError: no batch sizes.
    """
    if not setup.batch_sizes:
        raise ValueError("a profile needs batch sizes")
    size = setup.input_size
    smallest, largest = (f"image:{count}x{size}x{size}x3" for count in (setup.batch_sizes[0], setup.batch_sizes[-1]))
    return {
        "trt_profile_min_shapes": smallest,
        "trt_profile_opt_shapes": largest,
        "trt_profile_max_shapes": largest,
    }


def openvino_options(setup: Setup) -> Options:
    """onnxruntime's OpenVINO provider on the CPU: in fp32, which OpenVINO would else lower to bf16 where it can."""
    config = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": str(setup.intra_op_threads),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return {"device_type": "CPU", "load_config": json.dumps({"CPU": config})}


def engine_folder(
    root: Path, *, model_sha256: str, onnxruntime: str, tensorrt: str, gpu: str, batch_sizes: Sequence[int]
) -> Path:
    """Where the engines of one model lie that this onnxruntime, this TensorRT and this GPU can use, and no other.

    A cached engine is taken as it is, so everything that would make it another one is in the folder's name.
    """
    parts = (model_sha256[:16], f"ort{onnxruntime}", f"trt{tensorrt}", gpu, "b" + "-".join(map(str, batch_sizes)))
    return root / "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", part) for part in parts)


def engines_in(folder: Path) -> int:
    """Bytes of the engines that a folder holds; 0: none has been built."""
    return sum(path.stat().st_size for path in folder.glob("*.engine")) if folder.is_dir() else 0


def tolerance(provider: Provider, precision: Precision) -> float:
    """How far outputs may lie from the CPU's, relative to the largest of them."""
    return COARSE_TOLERANCE if provider == "tensorrt" or precision == "fp16" else FP32_TOLERANCE


def install(provider: Provider) -> str:
    """What to do where a provider is not there, as the end of a sentence."""
    if provider == "cpu":
        return "pip install -e '.[service,cpu]'"
    extra = {"tensorrt": "tensorrt", "cuda": "gpu", "openvino": "openvino"}[provider]
    # The wheels share one module: the one that is there has to go first.
    there = "onnxruntime onnxruntime-gpu onnxruntime-openvino"
    return f"pip uninstall {there} && pip install -e '.[service,{extra}]'"


def needs(provider: Provider) -> str:
    """What a provider needs that may be missing although onnxruntime offers it."""
    nvidia = "an NVIDIA driver, and CUDA and cuDNN as in pip install -e '.[service,gpu]'"
    return {
        "tensorrt": f"{nvidia}, and TensorRT as in pip install -e '.[service,tensorrt]'",
        "cuda": nvidia,
        "openvino": "a processor that OpenVINO knows, and the libraries of pip install -e '.[service,openvino]'",
        "cpu": "nothing else",
    }[provider]
