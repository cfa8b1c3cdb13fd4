"""Whether the packages that serve are installed; imports none of them."""

from importlib.util import find_spec

#: onnxruntime is in no extra but cpu, gpu and openvino: the wheels exclude each other.
NO_ONNXRUNTIME = "onnxruntime is not installed: pip install -e '.[service,cpu]', or -e '.[service,gpu]' for CUDA"


def check_installed() -> None:
    """Find out that a package is missing before several workers do.

    Raises:
        ImportError: onnxruntime, FastAPI or uvicorn is not installed.
    """
    if find_spec("onnxruntime") is None:
        raise ImportError(NO_ONNXRUNTIME)
    for package in ("fastapi", "uvicorn"):
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
