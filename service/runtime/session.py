"""An ONNX graph opened with onnxruntime: images in, the outputs of the contract out, on one execution provider.

A graph that breaks the contract is refused, and so is a provider whose outputs differ from the CPU's. The options of
the providers are in `service.runtime.providers`, bf16 in `service.runtime.mixed_precision`.
"""

import contextlib
import importlib.util
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from model.contract import ATTENTION, INPUT, ArtefactError, Manifest
from model.drift.reference import DriftReference
from model.probes import probe_images
from service.config.settings import PrecisionChoice, ProviderChoice
from service.runtime import cuda, providers
from service.runtime.artifact import (
    Tensor,
    bundled_artefact,
    check_computed,
    check_declared,
    check_meaning,
    read_artefact,
)
from service.runtime.cache_sized_calls import CacheSizedCalls
from service.runtime.fixed_shapes import FixedShapeCalls
from service.runtime.hardware import missing_bf16
from service.runtime.installed import NO_ONNXRUNTIME
from service.runtime.mixed_precision import MixedPrecisionCalls
from service.runtime.parity import Arrays, compare, mismatch, probe_mismatch
from service.runtime.providers import ComputePrecision, Provider, ProviderConfig, SessionParameters
from service.runtime.signatures import NO_VERIFICATION, Verifier

try:
    import onnxruntime

    from service.runtime.io_binding import FixedBatchCalls
except ImportError as error:
    raise ImportError(NO_ONNXRUNTIME) from error

_log = logging.getLogger(__name__)

#: Images (N, S, S, 3) to the outputs in the manifest's order, for any N. Thread-safe.
Compute = Callable[[NDArray[np.uint8]], Sequence[NDArray[np.float32]]]


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

    @property
    def precision(self) -> str: ...

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Compute the outputs of images (N, S, S, 3), RGB."""


class ProviderUnavailable(Exception):
    """The requested execution provider does not work here: why, and what to install."""


class OnnxSession:
    """An open artefact; made by `open_session`.

    Attributes:
        precision: "bf16" if the trunk is computed in bf16, else the precision of the weights.
    """

    def __init__(
        self, manifest: Manifest, provider: Provider, compute: Compute, computed_in: ComputePrecision = "fp32"
    ) -> None:
        self.manifest, self.provider = manifest, provider
        self.precision: str = "bf16" if computed_in == "bf16" else manifest.precision
        self.drift_reference: DriftReference | None = None
        self._compute = compute

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """Compute the outputs of images (N, S, S, 3), RGB, for any N. Thread-safe; releases the GIL.

        The arrays belong to the caller. On a GPU calls run one at a time, and N is padded to the next batch size.
        """
        arrays = self._compute(images)
        by_name: dict[str, Any] = {ATTENTION: None, **dict(zip(self.manifest.output_names, arrays, strict=True))}
        return Outputs(**by_name)


def open_session(
    artefact: Path | None = None,
    *,
    provider: ProviderChoice = "auto",
    precision: PrecisionChoice = "fp32",
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
        provider: "auto" takes the first one that works, and logs why those before it do not.
        precision: "bf16" computes the trunk in bf16 on OpenVINO, or fails; "auto" does so where it works.
        batch_sizes: sizes of the calls, ascending. A GPU pads or splits other sizes to these, OpenVINO splits them.
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
    ways = providers.attempts(provider, precision, offered(), engines_built=built)
    for way in ways:
        if way.provider == "cpu":
            break
        try:
            return _open_on_provider(graph, reference, way.provider, replace(parameters, computed_in=way.precision))
        except ProviderUnavailable as error:
            if way == ways[-1]:
                raise
            _log.warning("Provider %s in %s is not used: %s", way.provider, way.precision, error)
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
    check_declared(path, manifest, _tensors(started.get_inputs()), _tensors(started.get_outputs()))
    check_meaning(path, manifest, started.get_modelmeta().custom_metadata_map)
    calls = CacheSizedCalls(started, manifest.output_names, threads=parameters.intra_op_threads)
    session = OnnxSession(manifest, "cpu", calls.run)

    def run(images: NDArray[np.uint8]) -> Arrays:
        try:
            return session.run(images).by_name()
        except Exception as error:
            raise ArtefactError(path, f"cannot be run by onnxruntime: {_first_line(error)}") from error

    check_computed(path, manifest, run(probe_images(manifest)))
    if differs := probe_mismatch(manifest, run, providers.tolerance("cpu", manifest.precision)):
        raise ArtefactError(path, f"does not compute the outputs stored in its manifest: {differs}")
    return session


def _tensors(declared: Sequence[Any]) -> list[Tensor]:
    return [Tensor(tensor.name, tensor.type, tensor.shape) for tensor in declared]


def _compute(started: onnxruntime.InferenceSession, manifest: Manifest) -> Compute:
    return lambda images: started.run(manifest.output_names, {INPUT: images})


def _open_on_provider(
    graph: bytes, reference: OnnxSession, provider: Provider, parameters: SessionParameters
) -> OnnxSession:
    """Open a session on another provider than the CPU, and compare it with the CPU at every batch size."""
    if providers.NAMES[provider] not in offered():
        install = providers.install_command(provider)
        raise ProviderUnavailable(f"the installed onnxruntime has no {provider} provider: {install}")
    if parameters.computed_in == "bf16":
        _check_bf16(reference.manifest)
    _load_libraries(provider)
    if provider == "tensorrt":
        _make_engine_folder(parameters.engines)
    session = _start_first_working(graph, reference, provider, parameters)
    _check_parity(session, reference, parameters)
    return session


def _check_bf16(manifest: Manifest) -> None:
    if missing := missing_bf16():
        raise ProviderUnavailable(f"bf16 is not possible: {missing}; set MARROWLENS_PRECISION=fp32")
    if importlib.util.find_spec("onnx") is None:
        raise ProviderUnavailable("bf16 needs the package onnx: pip install -e '.[service,openvino]'")
    if manifest.precision != "fp32":
        raise ProviderUnavailable(
            f"bf16 needs weights in fp32, and those of {manifest.name} are {manifest.precision}; "
            "set MARROWLENS_PRECISION=fp32"
        )


def _check_parity(session: OnnxSession, reference: OnnxSession, parameters: SessionParameters) -> None:
    """Compare a session with the CPU at every batch size, and with the outputs stored in the manifest."""
    provider = session.provider
    images = probe_images(reference.manifest, max((2, *parameters.batch_sizes)))
    allowed = providers.tolerance(provider, parameters.precision, parameters.computed_in)

    def run(images: NDArray[np.uint8]) -> Arrays:
        try:
            return session.run(images).by_name()
        except Exception as error:
            failed = f"{provider} starts but fails on a batch of {len(images)}"
            raise ProviderUnavailable(f"{failed}: {_first_line(error)}") from error

    expected = reference.run(images).by_name()
    for count in sorted({2, *parameters.batch_sizes}):
        found = compare(run(images[:count]), {name: rows[:count] for name, rows in expected.items()}, expected)
        if differs := mismatch(found, allowed):
            raise ProviderUnavailable(f"{provider} does not match the CPU for a batch of {count}: {differs}")
    if differs := probe_mismatch(reference.manifest, run, allowed):
        raise ProviderUnavailable(f"{provider} does not compute the outputs stored in the manifest: {differs}")
    if parameters.computed_in == "bf16":
        _check_sum_rule(reference.manifest, run(images[:2]))


def _check_sum_rule(manifest: Manifest, computed: Arrays) -> None:
    """Check that the outputs of a mixed session agree with each other as exactly as those of an fp32 one."""
    try:
        check_computed(Path(manifest.name), manifest, computed)
    except ArtefactError as error:
        raise ProviderUnavailable(f"openvino in bf16 {error.reason}") from error


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
    graph: bytes, reference: OnnxSession, provider: Provider, parameters: SessionParameters
) -> OnnxSession:
    requirements = providers.requirements(provider)
    failure = ProviderUnavailable(f"{provider} does not start; it needs {requirements}")
    for config in providers.configs(provider, parameters):
        try:
            session = _try_config(graph, reference, provider, parameters, config)
        except Exception as error:
            failure = ProviderUnavailable(f"{provider} does not start ({_first_line(error)}); it needs {requirements}")
            continue
        if session is not None:
            if config.without:
                _log.warning("%s runs without %s: %s", provider, config.without, failure)
            return session
    raise failure


def _try_config(
    graph: bytes, reference: OnnxSession, provider: Provider, parameters: SessionParameters, config: ProviderConfig
) -> OnnxSession | None:
    """A session that has computed once; None if onnxruntime left the provider out, with a message on stderr."""
    manifest = reference.manifest
    if config.fixed_shapes:
        compute = _fixed_shapes(graph, reference, parameters, config)
    else:
        started = _start(graph, parameters.intra_op_threads, config)
        if providers.NAMES[provider] not in started.get_providers():
            return None
        calls = _fixed_batch_calls(started, manifest, parameters, config)
        compute = _compute(started, manifest) if calls is None else calls.run
    session = OnnxSession(manifest, provider, compute, parameters.computed_in)
    session.run(probe_images(manifest))
    return session


def _fixed_shapes(
    graph: bytes, reference: OnnxSession, parameters: SessionParameters, config: ProviderConfig
) -> Compute:
    """Calls of one session for each batch size, with the trunk in bf16 if the parameters say so."""
    manifest, threads = reference.manifest, parameters.intra_op_threads

    def calls(part: bytes, outputs: Sequence[str]) -> FixedShapeCalls:
        by_size = {size: _start_for_batch(part, parameters, config, size) for size in {1, *parameters.batch_sizes}}
        return FixedShapeCalls(by_size, outputs)

    if parameters.computed_in == "fp32":
        return calls(graph, manifest.output_names).run
    from service.runtime.graph_split import split_graph  # needs onnx, which only bf16 does

    parts = split_graph(graph)
    (cpu,) = providers.configs("cpu", parameters)
    mixed = MixedPrecisionCalls(
        calls(parts.trunk, parts.values),
        _start(parts.head, threads, cpu),
        values=parts.values,
        outputs=manifest.output_names,
        fp32=lambda images: list(reference.run(images).by_name().values()),
    )
    return mixed.run


def _start_for_batch(
    graph: bytes, parameters: SessionParameters, config: ProviderConfig, size: int
) -> onnxruntime.InferenceSession:
    for_batch = config.for_batch(size, parameters.input_size)
    started = _start(graph, parameters.intra_op_threads, for_batch)
    if for_batch.providers[0][0] not in started.get_providers():
        raise RuntimeError(f"onnxruntime leaves it out for a batch of {size}")
    return started


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
    """Session options, chosen by measurements with bench/timings/session_options.py; results in docs/providers.md."""
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
