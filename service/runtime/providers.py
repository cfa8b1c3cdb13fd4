"""onnxruntime's execution providers as plain data: names, options, tolerances and install commands.

Imports no onnxruntime and starts nothing, so that options can be tested on a machine without the hardware.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from model.contract import ATTENTION, EVIDENCE, INPUT, Precision
from service.config.settings import PrecisionChoice, ProviderChoice

Provider = Literal["tensorrt", "cuda", "openvino", "cpu"]
#: What a session is asked to compute in. With weights in fp16 a GPU computes in fp16.
ComputePrecision = Literal["fp32", "bf16"]
Options = dict[str, str]

#: onnxruntime's names.
NAMES: dict[Provider, str] = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}

#: What "auto" tries, in this order. Without OpenVINO, which is for bf16 (`attempts`) or chosen by name.
BEST_FIRST: tuple[Provider, ...] = ("tensorrt", "cuda", "cpu")

#: Choices of provider with which the trunk may be computed in bf16.
MIXED: tuple[ProviderChoice, ...] = ("auto", "openvino")

#: Largest difference from the CPU's outputs, relative to an output's largest value, that counts as rounding.
#: In fp32, twice the contract's 1e-4. With fp16 or TF32, which TensorRT chooses by itself, values keep 11 bits, and
#: scaling the attention maps to 0..1 enlarges their rounding. In bf16 values keep 8 bits.
FP32_TOLERANCE = 2e-4
COARSE_TOLERANCE = 5e-2
BF16_TOLERANCE = 1e-1
BF16_ATTENTION_TOLERANCE = 3e-1


@dataclass(frozen=True, slots=True)
class SessionParameters:
    """What the options of a provider depend on."""

    input_size: int  # S, pixels
    intra_op_threads: int
    batch_sizes: tuple[int, ...] = ()  # ascending; empty: not known beforehand
    precision: Precision = "fp32"  # of the weights
    computed_in: ComputePrecision = "fp32"
    engines: Path | None = None  # folder for this model's TensorRT engines on this machine


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """One way to start a provider.

    Attributes:
        providers: onnxruntime's list of providers with options, in order.
        fixed_buffers: calls use buffers that are allocated once for each batch size.
        graphs: calls replay a CUDA graph.
        fixed_shapes: one session for each batch size, made by `for_batch`.
        without: the feature that this configuration lacks, compared with the one before it.
    """

    providers: tuple[tuple[str, Options], ...]
    fixed_buffers: bool = False
    graphs: bool = False
    fixed_shapes: bool = False
    without: str | None = None

    def for_batch(self, size: int, input_size: int) -> "ProviderConfig":
        """This configuration for one batch size of images with sides of `input_size` pixels, on OpenVINO."""
        (name, options), *others = self.providers
        shape = {"reshape_input": f"{INPUT}[{size},{input_size},{input_size},3]"}
        return replace(self, providers=((name, options | shape), *others))


class Attempt(NamedTuple):
    """A provider, and the precision to try it in."""

    provider: Provider
    precision: ComputePrecision


def batch_sizes(largest: int) -> tuple[int, ...]:
    """The powers of two below the largest batch, and the largest: 16 gives (1, 2, 4, 8, 16), 24 (1, 2, 4, 8, 16, 24).

    A batch is padded to the next of them, so at most half of a call is padding, and a GPU has planned every shape.
    """
    below = [1 << power for power in range(largest.bit_length()) if 1 << power < largest]
    return (*below, largest)


def candidates(choice: ProviderChoice, offered: Collection[str], *, engines_built: bool) -> tuple[Provider, ...]:
    """The providers to try, in order: the chosen one, or for "auto" those that onnxruntime offers, best first.

    Args:
        offered: providers of the installed onnxruntime, by onnxruntime's names.
        engines_built: whether TensorRT's engines are cached. If not, "auto" skips it: building takes minutes.
    """
    if choice != "auto":
        return (choice,)
    wanted = (provider for provider in BEST_FIRST if provider != "tensorrt" or engines_built)
    return tuple(provider for provider in wanted if provider == "cpu" or NAMES[provider] in offered)


def attempts(
    choice: ProviderChoice, precision: PrecisionChoice, offered: Collection[str], *, engines_built: bool
) -> tuple[Attempt, ...]:
    """What to try, in order: `candidates` in fp32; before or instead of them OpenVINO in bf16, if it is asked for.

    Args:
        precision: "auto" tries bf16 where the choice of provider permits it. "bf16" tries nothing else.
    """
    bf16 = (Attempt("openvino", "bf16"),)
    if precision == "bf16":
        return bf16
    fp32 = tuple(Attempt(provider, "fp32") for provider in candidates(choice, offered, engines_built=engines_built))
    permitted = choice in MIXED and NAMES["openvino"] in offered
    return (*bf16, *fp32) if precision == "auto" and permitted else fp32


def configs(provider: Provider, parameters: SessionParameters) -> tuple[ProviderConfig, ...]:
    """The ways to start a provider, best first. Each ends with the CPU provider, which computes shapes."""
    cpu = (NAMES["cpu"], Options())
    if provider == "cpu":
        return (ProviderConfig((cpu,)),)
    if provider == "openvino":
        return (ProviderConfig(((NAMES["openvino"], openvino_options(parameters)), cpu), fixed_shapes=True),)
    cuda = (NAMES["cuda"], cuda_options())
    fixed = bool(parameters.batch_sizes)
    if provider == "cuda":
        plain = ProviderConfig((cuda, cpu), fixed, without="CUDA graphs" if fixed else None)
        with_graphs = ProviderConfig(((NAMES["cuda"], cuda_options(graphs=True)), cpu), fixed, graphs=True)
        return (with_graphs, plain) if fixed else (plain,)
    ranged = ProviderConfig(((NAMES["tensorrt"], tensorrt_options(parameters)), cuda, cpu), fixed)
    if not fixed:
        return (ranged,)
    profile = tensorrt_options(parameters) | tensorrt_profile(parameters)
    profiled = ProviderConfig(((NAMES["tensorrt"], profile), cuda, cpu), fixed)
    return profiled, ProviderConfig(ranged.providers, fixed, without="one engine for all batch sizes")


def cuda_options(*, graphs: bool = False) -> Options:
    """Options of the CUDA provider, for fixed batch sizes and the CPU's outputs."""
    options = {
        "cudnn_conv_algo_search": "HEURISTIC",  # the default searches for seconds at each new batch size
        "arena_extend_strategy": "kSameAsRequested",  # memory grows by what is needed, not by powers of two
        "use_tf32": "0",  # keeps outputs within the contract's 1e-4 of the CPU's
    }
    return options | {"enable_cuda_graph": "1"} if graphs else options


def tensorrt_options(parameters: SessionParameters) -> Options:
    """Options of the TensorRT provider. Engines and timings are cached if there is a folder for them."""
    options = {"trt_fp16_enable": "1" if parameters.precision == "fp16" else "0"}
    if parameters.engines is None:
        return options
    folder = str(parameters.engines)
    return options | {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    }


def tensorrt_profile(parameters: SessionParameters) -> Options:
    """The range of shapes of one engine, tuned for the largest batch, which takes longest.

    Raises:
        ValueError: no batch sizes.
    """
    if not parameters.batch_sizes:
        raise ValueError("a TensorRT profile needs batch sizes")
    size, counts = parameters.input_size, (parameters.batch_sizes[0], parameters.batch_sizes[-1])
    smallest, largest = (f"image:{count}x{size}x{size}x3" for count in counts)
    return {
        "trt_profile_min_shapes": smallest,
        "trt_profile_opt_shapes": largest,
        "trt_profile_max_shapes": largest,
    }


def openvino_options(parameters: SessionParameters) -> Options:
    """Options of the OpenVINO provider on the CPU. OpenVINO's own default is bf16 if the CPU has it."""
    config = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[parameters.computed_in],
        "INFERENCE_NUM_THREADS": str(parameters.intra_op_threads),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return {"device_type": "CPU", "load_config": json.dumps({"CPU": config})}


def engine_folder(
    root: Path, *, model_sha256: str, onnxruntime: str, tensorrt: str, gpu: str, batch_sizes: Sequence[int]
) -> Path:
    """The folder for the engines of one model, onnxruntime, TensorRT, GPU and list of batch sizes.

    onnxruntime loads a cached engine without checking it, so the folder's name holds everything it depends on.
    """
    parts = (model_sha256[:16], f"ort{onnxruntime}", f"trt{tensorrt}", gpu, "b" + "-".join(map(str, batch_sizes)))
    return root / "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", part) for part in parts)


def engine_bytes(folder: Path) -> int:
    """Total size of the engines in a folder; 0 if none has been built."""
    return sum(path.stat().st_size for path in folder.glob("*.engine")) if folder.is_dir() else 0


class Tolerance(NamedTuple):
    """Allowed differences from the CPU's outputs, relative to the largest value of an output."""

    outputs: float  # of three of four images
    attention: float  # the same for the attention maps
    largest: float  # of all images
    largest_map: float  # the same for attention and evidence

    def of(self, output: str) -> tuple[float, float]:
        """The tolerances of an output: for three of four images, and for all."""
        most = self.attention if output == ATTENTION else self.outputs
        return most, self.largest_map if output in (ATTENTION, EVIDENCE) else self.largest


def tolerance(provider: Provider, precision: Precision, computed_in: ComputePrecision = "fp32") -> Tolerance:
    """The tolerance for a provider, weights of a precision, and the precision that is computed in."""
    if computed_in == "bf16":
        return Tolerance(BF16_TOLERANCE, BF16_ATTENTION_TOLERANCE, BF16_ATTENTION_TOLERANCE, BF16_ATTENTION_TOLERANCE)
    # No larger one: a network with its scales in another order would pass.
    allowed = COARSE_TOLERANCE if provider == "tensorrt" or precision == "fp16" else FP32_TOLERANCE
    return Tolerance(allowed, allowed, allowed, allowed)


def install_command(provider: Provider) -> str:
    """The shell command that installs a provider."""
    if provider == "cpu":
        return "pip install -e '.[service,cpu]'"
    extra = {"tensorrt": "tensorrt", "cuda": "gpu", "openvino": "openvino"}[provider]
    # The wheels share one module: the installed one has to go first.
    wheels = "onnxruntime onnxruntime-gpu onnxruntime-openvino"
    return f"pip uninstall {wheels} && pip install -e '.[service,{extra}]'"


def requirements(provider: Provider) -> str:
    """What a provider needs besides an onnxruntime that offers it."""
    nvidia = "an NVIDIA driver, and CUDA and cuDNN as in pip install -e '.[service,gpu]'"
    return {
        "tensorrt": f"{nvidia}, and TensorRT as in pip install -e '.[service,tensorrt]'",
        "cuda": nvidia,
        "openvino": "a processor that OpenVINO supports, and the libraries of pip install -e '.[service,openvino]'",
        "cpu": "nothing else",
    }[provider]
