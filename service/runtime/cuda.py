"""NVIDIA's libraries and driver on this machine: CUDA, cuDNN, TensorRT, and the GPUs that nvidia-smi lists.

A missing library or driver is None or an empty list, never an exception.
"""

import ctypes
import importlib.util
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

# onnxruntime 1.32 sends usage data to Microsoft unless this is set before the import. The operator may set it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

#: TensorRT's major version that onnxruntime 1.22 to 1.31 is linked against.
TENSORRT_MAJOR = 10
_PARSER_PARTS = (f"libnvinfer.so.{TENSORRT_MAJOR}", f"libnvonnxparser.so.{TENSORRT_MAJOR}")


class Gpu(NamedTuple):
    """One GPU, as the driver reports it."""

    name: str
    driver: str
    memory_mib: int


def gpus(command: str = "nvidia-smi") -> list[Gpu]:
    """The GPUs that the driver lists; empty without a driver."""
    query = [command, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.split(", ") for line in answer.stdout.splitlines())
    return [Gpu(row[0], row[1], int(row[2])) for row in rows if len(row) == 3 and row[2].isdigit()]


def load(name: str, folder: Path | None = None) -> ctypes.CDLL | None:
    """Load a shared library from a folder, or by the loader's search path; None if it cannot be loaded."""
    try:
        return ctypes.CDLL(str(folder / name) if folder else name, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return None


def cuda_runtime(build: str) -> ctypes.CDLL | None:
    """The CUDA runtime of the major version of `build` ("13.0"), with which onnxruntime was built; None if missing."""
    major = build.split(".")[0]
    return load(f"libcudart.so.{major}") if major.isdigit() else None


def load_tensorrt(folder: Path | None = None) -> bool:
    """Load TensorRT from its wheel, where onnxruntime does not look, or by the loader's search path."""
    folder = folder or _wheel_folder("tensorrt_libs")
    return all(load(part, folder) or load(part) for part in _PARSER_PARTS)


def versions(cuda_build: str) -> dict[str, str | None]:
    """Versions that CUDA, cuDNN and TensorRT report of themselves; None for a library that cannot be loaded."""
    return {
        "CUDA": _cuda_version(cuda_runtime(cuda_build)),
        "cuDNN": _cudnn_version(load("libcudnn.so.9")),
        "TensorRT": _tensorrt_version(load(_PARSER_PARTS[0])),
    }


def _cuda_version(library: ctypes.CDLL | None) -> str | None:
    number = ctypes.c_int(0)
    if library is None or library.cudaRuntimeGetVersion(ctypes.byref(number)) != 0:
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"  # 13000 is 13.0


def _cudnn_version(library: ctypes.CDLL | None) -> str | None:
    if library is None:
        return None
    library.cudnnGetVersion.restype = ctypes.c_size_t
    return dotted(library.cudnnGetVersion())


def _tensorrt_version(library: ctypes.CDLL | None) -> str | None:
    return None if library is None else dotted(library.getInferLibVersion())


def dotted(number: int) -> str:
    """The version in cuDNN's and TensorRT's numeric form: 92400 is 9.24.0."""
    return f"{number // 10_000}.{number % 10_000 // 100}.{number % 100}"


def _wheel_folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None
