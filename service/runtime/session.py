"""An ONNX graph opened with onnxruntime: images in, the outputs of the contract out, on one execution provider.

A graph that breaks the contract is refused, and so is a provider whose outputs differ from the CPU's. The options of
the providers are in `service.runtime.providers`.
"""

import contextlib
import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from model.contract import ATTENTION, INPUT, ArtefactError, Manifest
from model.drift.reference import DriftReference
from model.probes import probe_images
from service.config.settings import ProviderChoice
from service.runtime import cuda, providers
from service.runtime.artifact import (
    Tensor,
    bundled_artefact,
    check_computed,
    check_declared,
    check_meaning,
    read_artefact,
)
from service.runtime.parity import Arrays, compare, mismatch, probe_mismatch
from service.runtime.providers import Provider, ProviderConfig, SessionParameters
from service.runtime.signatures import NO_VERIFICATION, Verifier

try:
    import onnxruntime

    from service.runtime.io_binding import FixedBatchCalls
except ImportError as error:  # in no extra but cpu, gpu and openvino: the wheels exclude each other
    raise ImportError(
        "onnxruntime is not installed: pip install -e '.[service,cpu]', or -e '.[service,gpu]' for CUDA"
    ) from error

_log = logging.getLogger(__name__)


class Outputs(NamedTuple):
    """The outputs of the graph for N images, in the order of the contract."""

    probabilities: NDArray[np.float32]  # (N, C)
    logits: NDArray[np.float32]  # (N, C)
    attention: NDArray[np.float32] | None  # (N, K, h, w); None if the model has no attention maps
    evidence: NDArray[np.float32]  # (N, C, h, w)
    embedding: NDArray[np.float32]  # (N, D)

    def by_name(self) -> dict[str, NDArray[np.float32]]:
        """The outputs that the model has, by name."""
        return {name: array for name, array in self._asdict().items() if array is not None}


class Session(Protocol):
    """The interface of an opened model."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def provider(self) -> str: ...

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Compute the outputs of images (N, S, S, 3), RGB."""


class ProviderUnavailable(Exception):
    """The requested execution provider does not work here: why, and what to install."""


class OnnxSession:
    """An open artefact; made by `open_session`."""

    def __init__(
        self,
        manifest: Manifest,
        provider: Provider,
        session: onnxruntime.InferenceSession,
        calls: FixedBatchCalls | None,
    ) -> None:
        self.manifest, self.provider = manifest, provider
        self.drift_reference: DriftReference | None = None
        self._session = session
        self._calls = calls

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Compute the outputs of images (N, S, S, 3), RGB, for any N. Thread-safe; releases the GIL.

        The arrays belong to the caller. On a GPU calls run one at a time, and N is padded to the next batch size.
        """
        names = self.manifest.output_names
        arrays = self._session.run(names, {INPUT: images}) if self._calls is None else self._calls.run(images)
        by_name: dict[str, Any] = {ATTENTION: None, **dict(zip(names, arrays, strict=True))}
        return Outputs(**by_name)

    def declared(self) -> tuple[list[Tensor], list[Tensor]]:
        """The inputs and the outputs that the graph declares."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        return [Tensor(t.name, t.type, t.shape) for t in inputs], [Tensor(t.name, t.type, t.shape) for t in outputs]


def open_session(
    artefact: Path | None = None,
    *,
    provider: ProviderChoice = "auto",
    intra_op_threads: int = 1,
    batch_sizes: Sequence[int] = (),
    engine_cache: Path | None = None,
    verifier: Verifier = NO_VERIFICATION,
) -> OnnxSession:
    """Open an artefact, by default the bundled one, and check that it keeps the contract.

    Every session is checked against the outputs stored in the manifest, if there are any. A session on another
    provider than the CPU also runs every batch size, so that nothing is compiled during a request, and is compared
    with the CPU.

    Args:
        provider: "auto" takes the best one that works, and logs why others do not.
        batch_sizes: sizes of the calls, ascending. A GPU pads or splits other sizes to these.
        engine_cache: folder for TensorRT engines. Without it every opening builds them, which takes minutes.
        verifier: checks both files before they are opened.

    Raises:
        ArtefactError: a file is missing, damaged or not verified, or the graph does not match its manifest.
        ProviderUnavailable: the requested provider does not work.
    """
    path = artefact or bundled_artefact()
    graph, manifest = read_artefact(path, verifier)
    parameters = SessionParameters(
        manifest.preprocessing.input_size, intra_op_threads, tuple(batch_sizes), manifest.precision
    )
    reference = _open_on_cpu(path, graph, manifest, parameters)
    if provider in ("auto", "tensorrt"):
        parameters = replace(parameters, engines=engine_folder(manifest, batch_sizes, engine_cache))
    built = parameters.engines is not None and bool(providers.engine_bytes(parameters.engines))
    for candidate in providers.candidates(provider, offered(), engines_built=built):
        if candidate == "cpu":
            break
        try:
            return _open_on_provider(graph, reference, candidate, parameters)
        except ProviderUnavailable as error:
            if provider != "auto":
                raise
            _log.warning("Provider %s is not used: %s", candidate, error)
    return reference


def offered() -> list[str]:
    """The execution providers that the installed onnxruntime was built with; they need not start."""
    return list(onnxruntime.get_available_providers())


def versions() -> dict[str, str | None]:
    """Versions of onnxruntime, CUDA, cuDNN and TensorRT; None for a library that is missing."""
    if cuda_build := str(getattr(onnxruntime, "cuda_version", "")):
        _load_libraries("tensorrt")
    return {"onnxruntime": onnxruntime.__version__, **cuda.versions(cuda_build)}


def engine_folder(manifest: Manifest, batch_sizes: Sequence[int], engine_cache: Path | None) -> Path | None:
    """The folder of the cache for this model's engines on this machine; None without a cache, GPU or TensorRT."""
    if engine_cache is None or providers.NAMES["tensorrt"] not in offered():
        return None
    gpus, found = cuda.gpus(), versions()
    if not gpus or found["TensorRT"] is None:
        return None
    return providers.engine_folder(
        engine_cache,
        model_sha256=manifest.sha256,
        onnxruntime=onnxruntime.__version__,
        tensorrt=found["TensorRT"],
        gpu=gpus[0].name,
        batch_sizes=batch_sizes,
    )


def _open_on_cpu(path: Path, graph: bytes, manifest: Manifest, parameters: SessionParameters) -> OnnxSession:
    (config,) = providers.configs("cpu", parameters)
    try:
        started = _start(graph, parameters.intra_op_threads, config)
    except Exception as error:
        raise ArtefactError(path, f"cannot be loaded by onnxruntime: {_first_line(error)}") from error
    session = OnnxSession(manifest, "cpu", started, None)
    check_declared(path, manifest, *session.declared())
    check_meaning(path, manifest, started.get_modelmeta().custom_metadata_map)

    def run(images: NDArray[np.uint8]) -> Arrays:
        try:
            return session.run(images).by_name()
        except Exception as error:
            raise ArtefactError(path, f"cannot be run by onnxruntime: {_first_line(error)}") from error

    check_computed(path, manifest, run(probe_images(manifest)))
    if differs := probe_mismatch(manifest, run, providers.tolerance("cpu", manifest.precision)):
        raise ArtefactError(path, f"does not compute the outputs stored in its manifest: {differs}")
    return session


def _open_on_provider(
    graph: bytes, reference: OnnxSession, provider: Provider, parameters: SessionParameters
) -> OnnxSession:
    """Open a session on another provider than the CPU, and compare it with the CPU at every batch size."""
    if providers.NAMES[provider] not in offered():
        install = providers.install_command(provider)
        raise ProviderUnavailable(f"the installed onnxruntime has no {provider} provider: {install}")
    _load_libraries(provider)
    if provider == "tensorrt":
        _make_engine_folder(parameters.engines)
    session = _start_first_working(graph, reference.manifest, provider, parameters)
    images = probe_images(reference.manifest, max((2, *parameters.batch_sizes)))
    tolerance = providers.tolerance(provider, parameters.precision)

    def run(images: NDArray[np.uint8]) -> Arrays:
        try:
            return session.run(images).by_name()
        except Exception as error:
            failed = f"{provider} starts but fails on a batch of {len(images)}"
            raise ProviderUnavailable(f"{failed}: {_first_line(error)}") from error

    for count in sorted({2, *parameters.batch_sizes}):
        found = compare(run(images[:count]), reference.run(images[:count]).by_name())
        if differs := mismatch(found, tolerance):
            raise ProviderUnavailable(f"{provider} does not match the CPU for a batch of {count}: {differs}")
    if differs := probe_mismatch(reference.manifest, run, tolerance):
        raise ProviderUnavailable(f"{provider} does not compute the outputs stored in the manifest: {differs}")
    return session


def _make_engine_folder(engines: Path | None) -> None:
    if engines is None:
        if cuda.gpus():
            _log.warning("TensorRT builds its engines at every start, which takes minutes: set MARROWLENS_ENGINE_CACHE")
        return
    if not providers.engine_bytes(engines):
        _log.warning("TensorRT builds its engines into %s now, which takes minutes", engines)
    try:
        engines.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProviderUnavailable(f"the engine cache {engines} cannot be created: {error.strerror}") from error


def _start_first_working(
    graph: bytes, manifest: Manifest, provider: Provider, parameters: SessionParameters
) -> OnnxSession:
    requirements = providers.requirements(provider)
    failure = ProviderUnavailable(f"{provider} does not start; it needs {requirements}")
    for config in providers.configs(provider, parameters):
        try:
            session = _try_config(graph, manifest, provider, parameters, config)
        except Exception as error:
            failure = ProviderUnavailable(f"{provider} does not start ({_first_line(error)}); it needs {requirements}")
            continue
        if session is not None:
            if config.without:
                _log.warning("%s runs without %s: %s", provider, config.without, failure)
            return session
    raise failure


def _try_config(
    graph: bytes, manifest: Manifest, provider: Provider, parameters: SessionParameters, config: ProviderConfig
) -> OnnxSession | None:
    """A session that has computed once; None if onnxruntime left the provider out, with a message on stderr."""
    started = _start(graph, parameters.intra_op_threads, config)
    if providers.NAMES[provider] not in started.get_providers():
        return None
    session = OnnxSession(manifest, provider, started, _fixed_batch_calls(started, manifest, parameters, config))
    session.run(probe_images(manifest))
    return session


def _fixed_batch_calls(
    started: onnxruntime.InferenceSession, manifest: Manifest, parameters: SessionParameters, config: ProviderConfig
) -> FixedBatchCalls | None:
    if not config.fixed_buffers:
        return None
    size = manifest.preprocessing.input_size
    shapes = {name: tuple(int(side) for side in manifest.outputs[name][1:]) for name in manifest.output_names}
    return FixedBatchCalls(
        started,
        input=(INPUT, (size, size, 3)),
        outputs=shapes,
        batch_sizes=parameters.batch_sizes,
        graphs=config.graphs,
    )


def _start(graph: bytes, intra_op_threads: int, config: ProviderConfig) -> onnxruntime.InferenceSession:
    # Without enable_fallback=0 onnxruntime replaces a provider that fails, and prints a line on stdout.
    return onnxruntime.InferenceSession(
        graph, session_options(intra_op_threads), providers=list(config.providers), enable_fallback=0
    )


def session_options(intra_op_threads: int) -> onnxruntime.SessionOptions:
    """Session options, chosen by measurements with bench/session_options.py; results in docs/providers.md."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads  # onnxruntime's default counts the machine's cores
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # keeps one plan for each batch size: more memory, not faster
    options.log_severity_level = 3  # errors
    # Spinning threads would take the cores that decoding needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _load_libraries(provider: Provider) -> None:
    """Load CUDA, cuDNN and TensorRT from their wheels where the system has none. A missing one shows at the start."""
    if provider not in ("cuda", "tensorrt"):
        return
    with contextlib.redirect_stdout(io.StringIO()) as printed:  # preload_dlls prints; stdout is the command's result
        onnxruntime.preload_dlls()
    _log.debug("onnxruntime.preload_dlls: %s", printed.getvalue().strip() or "all loaded")
    if provider == "tensorrt" and not cuda.load_tensorrt():
        _log.debug("TensorRT's libraries cannot be loaded")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
