"""The ONNX graph as something that turns pictures into the contract's outputs. The only importer of onnxruntime.

Knows execution providers and session options. Knows nothing of batching, HTTP or how a picture was decoded. An
artefact that does not keep the contract is refused here, before anything is served.
"""

import logging
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from model.contract import INPUT, OUTPUTS, ArtefactError, Manifest
from service.artefact import Tensor, bundled_artefact, check_computed, check_declared, probe_images, read_artefact

try:
    import onnxruntime
except ImportError as error:  # neither in the base nor in [service]: the CPU and the GPU wheel exclude each other
    raise ImportError(
        "onnxruntime is not installed: pip install 'marrowlens[service,cpu]', or 'marrowlens[service,gpu]' for CUDA"
    ) from error

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",  # the default searches for seconds at each new batch size
    "arena_extend_strategy": "kSameAsRequested",  # memory grows by what is needed, not by powers of two
    "use_tf32": "0",  # the answers of the CPU, within the contract's 1e-4
}

_log = logging.getLogger(__name__)


class Outputs(NamedTuple):
    """What the graph says of N pictures, in the contract's order; first axis N."""

    probabilities: NDArray[np.float32]  # (N, C)
    logits: NDArray[np.float32]  # (N, C)
    attention: NDArray[np.float32]  # (N, K, h, w)
    evidence: NDArray[np.float32]  # (N, C, h, w)
    embedding: NDArray[np.float32]  # (N, D)


class Session(Protocol):
    """What the classifier needs of a model: its manifest, what it computes on, and one call."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def provider(self) -> str: ...

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """(N, S, S, 3) RGB to the outputs."""


class ProviderUnavailable(Exception):
    """The execution provider that was asked for does not work here: why, and what to install."""


class OnnxSession:
    """An opened artefact; `open_session` makes it."""

    def __init__(self, manifest: Manifest, provider: str, session: onnxruntime.InferenceSession) -> None:
        self.manifest = manifest
        self.provider = provider
        self._session = session

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """(N, S, S, 3) RGB to the outputs. Callable from any thread; other threads run meanwhile."""
        return Outputs(*self._session.run(OUTPUTS, {INPUT: images}))

    def declared(self) -> tuple[list[Tensor], list[Tensor]]:
        """The inputs and the outputs, as the graph declares them."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        return [Tensor(t.name, t.type, t.shape) for t in inputs], [Tensor(t.name, t.type, t.shape) for t in outputs]


def open_session(
    artefact: Path | None = None,
    *,
    provider: Literal["auto", "cpu", "cuda"] = "auto",
    intra_op_threads: int = 1,
) -> OnnxSession:
    """Open an artefact, by default the bundled one, and prove on two pictures that it keeps the contract.

    Args:
        provider: "auto" takes CUDA where onnxruntime offers it and it works, and says in the log when it does not.

    Raises:
        ArtefactError: a file is missing or damaged, or the graph does not do what the manifest promises.
        ProviderUnavailable: CUDA was asked for and does not work.
    """
    path = artefact or bundled_artefact()
    graph, manifest = read_artefact(path)
    if provider == "cuda" or (provider == "auto" and CUDA in onnxruntime.get_available_providers()):
        try:
            return _prove(path, OnnxSession(manifest, "cuda", _on_cuda(graph, intra_op_threads)))
        except ProviderUnavailable as error:
            if provider == "cuda":
                raise
            _log.warning("computing on the CPU: %s", error)
    try:
        session = _start(graph, intra_op_threads, [CPU])
    except Exception as error:
        raise ArtefactError(path, f"onnxruntime cannot load it: {_first_line(error)}") from error
    return _prove(path, OnnxSession(manifest, "cpu", session))


def _on_cuda(graph: bytes, intra_op_threads: int) -> onnxruntime.InferenceSession:
    if CUDA not in onnxruntime.get_available_providers():
        raise ProviderUnavailable(
            "the installed onnxruntime has no CUDA: pip uninstall onnxruntime && pip install 'marrowlens[service,gpu]'"
        )
    needs = "it needs an NVIDIA driver, and CUDA and cuDNN as in pip install 'marrowlens[service,gpu]'"
    try:
        onnxruntime.preload_dlls()  # from the wheels, where the system has none
        session = _start(graph, intra_op_threads, [(CUDA, CUDA_OPTIONS), CPU])
    except Exception as error:
        raise ProviderUnavailable(f"CUDA does not start ({_first_line(error)}); {needs}") from error
    if CUDA not in session.get_providers():  # onnxruntime itself goes on without and says so on stderr only
        raise ProviderUnavailable(f"CUDA does not start; {needs}")
    return session


def _start(graph: bytes, intra_op_threads: int, providers: list[Any]) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads  # never left to onnxruntime, which counts the machine's cores
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # one plan for each batch size: 50 MB more for the tiny model, and no faster
    options.log_severity_level = 3  # errors
    # Spinning threads take the cores that decoding needs: on two busy cores half of the pictures a CPU second.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without enable_fallback=0 a provider that fails is replaced with a line on stdout.
    return onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)


def _prove(path: Path, session: OnnxSession) -> OnnxSession:
    check_declared(path, session.manifest, *session.declared())
    try:
        outputs = session.run(probe_images(session.manifest))
    except Exception as error:
        if session.provider == "cuda":
            raise ProviderUnavailable(f"CUDA starts but does not compute: {_first_line(error)}") from error
        raise ArtefactError(path, f"onnxruntime cannot run it: {_first_line(error)}") from error
    check_computed(path, session.manifest, outputs._asdict())
    return session


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
