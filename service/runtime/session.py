"""The ONNX graph as something that turns pictures into the contract's outputs, on the provider that was asked for.

Knows onnxruntime's sessions, and with service.runtime.io_binding is all that does; options stand in
service.runtime.providers. Knows nothing
of batching, HTTP or decoding. What does not keep the contract, or does not give the CPU's answers, is refused here.
"""

import contextlib
import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from model.contract import INPUT, OUTPUTS, ArtefactError, Manifest
from model.drift.reference import DriftReference
from model.probes import probe_images
from service.config.settings import ProviderChoice
from service.runtime import cuda, providers, signatures
from service.runtime.agreement import Arrays, compare, complaint
from service.runtime.artifact import (
    Tensor,
    bundled_artefact,
    check_computed,
    check_declared,
    check_meaning,
    read_artefact,
)
from service.runtime.parity import parity_complaint
from service.runtime.providers import Attempt, Provider, Setup

try:
    import onnxruntime

    from service.runtime.io_binding import BoundCalls
except ImportError as error:  # neither in the base nor in [service]: the wheels exclude each other
    raise ImportError(
        "onnxruntime is not installed: pip install -e '.[service,cpu]', or -e '.[service,gpu]' for CUDA"
    ) from error

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

    def __init__(
        self, manifest: Manifest, provider: Provider, session: onnxruntime.InferenceSession, calls: BoundCalls | None
    ) -> None:
        self.manifest, self.provider = manifest, provider
        self.drift_reference: DriftReference | None = None
        self._session = session
        self._calls = calls

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """(N, S, S, 3) RGB to the outputs, for any N. Callable from any thread; other threads run meanwhile.

        The arrays are the caller's own. On a GPU the calls take turns, and N is padded to the next batch size.
        """
        if self._calls is not None:
            return Outputs(*self._calls.run(images))
        return Outputs(*self._session.run(OUTPUTS, {INPUT: images}))

    def declared(self) -> tuple[list[Tensor], list[Tensor]]:
        """The inputs and the outputs, as the graph declares them."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        return [Tensor(t.name, t.type, t.shape) for t in inputs], [Tensor(t.name, t.type, t.shape) for t in outputs]


def open_session(
    artefact: Path | None = None,
    *,
    provider: ProviderChoice = "auto",
    intra_op_threads: int = 1,
    batch_sizes: Sequence[int] = (),
    engine_cache: Path | None = None,
    verifier: signatures.Verifier = signatures.NO_VERIFICATION,
) -> OnnxSession:
    """Open an artefact, by default the bundled one, that `verifier` lets pass, and prove that it keeps the contract.

    What is not the CPU is also run at every batch size, so that nothing is built within a request, and held against
    the CPU's answers. All are held against the answers that the manifest has stored, where it has.

    Args:
        provider: "auto" takes the best that works, and says in the log what does not.
        batch_sizes: what calls will have, ascending. A GPU pads or cuts others to these.
        engine_cache: where TensorRT keeps its engines; without, it builds them at every opening, for minutes.

    Raises:
        ArtefactError: a file is missing, damaged or not vouched for, or the graph breaks a promise of the manifest.
        ProviderUnavailable: what was asked for does not work.
    """
    path = artefact or bundled_artefact()
    graph, manifest = read_artefact(path, verifier)
    setup = Setup(manifest.preprocessing.input_size, intra_op_threads, tuple(batch_sizes), manifest.precision)
    reference = _on_cpu(path, graph, manifest, setup)
    if provider in ("auto", "tensorrt"):
        setup = replace(setup, engines=engine_folder(manifest, batch_sizes, engine_cache))
    built = setup.engines is not None and bool(providers.engines_in(setup.engines))
    for candidate in providers.candidates(provider, offered(), engines_built=built):
        if candidate == "cpu":
            break
        try:
            return _elsewhere(graph, reference, candidate, setup)
        except ProviderUnavailable as error:
            if provider != "auto":
                raise
            _log.warning("not computing on %s: %s", candidate, error)
    return reference


def offered() -> list[str]:
    """The execution providers that the installed onnxruntime was built with; they need not start."""
    return list(onnxruntime.get_available_providers())


def versions() -> dict[str, str | None]:
    """Versions of onnxruntime and of what it computes with; None for what is not there."""
    if cuda_build := str(getattr(onnxruntime, "cuda_version", "")):
        _load_libraries("tensorrt")
    return {"onnxruntime": onnxruntime.__version__, **cuda.versions(cuda_build)}


def engine_folder(manifest: Manifest, batch_sizes: Sequence[int], engine_cache: Path | None) -> Path | None:
    """The folder in the cache for the engines that work here; None without a cache, a GPU or TensorRT."""
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


def _on_cpu(path: Path, graph: bytes, manifest: Manifest, setup: Setup) -> OnnxSession:
    (attempt,) = providers.attempts("cpu", setup)
    try:
        started = _start(graph, setup.intra_op_threads, attempt)
    except Exception as error:
        raise ArtefactError(path, f"onnxruntime cannot load it: {_first_line(error)}") from error
    session = OnnxSession(manifest, "cpu", started, None)
    check_declared(path, manifest, *session.declared())
    check_meaning(path, manifest, started.get_modelmeta().custom_metadata_map)

    def run(images: NDArray[np.uint8]) -> Arrays:
        try:
            return session.run(images)._asdict()
        except Exception as error:
            raise ArtefactError(path, f"onnxruntime cannot run it: {_first_line(error)}") from error

    check_computed(path, manifest, run(probe_images(manifest)))
    if wrong := parity_complaint(manifest, run, providers.tolerance("cpu", manifest.precision)):
        raise ArtefactError(path, f"does not give the answers that its manifest has stored: {wrong}")
    return session


def _elsewhere(graph: bytes, reference: OnnxSession, provider: Provider, setup: Setup) -> OnnxSession:
    """Start what is not the CPU, and hold it against the CPU at every batch size."""
    if providers.NAMES[provider] not in offered():
        raise ProviderUnavailable(f"the installed onnxruntime has no {provider}: {providers.install(provider)}")
    _load_libraries(provider)
    if provider == "tensorrt":
        _make_room(setup.engines)
    session = _first_that_starts(graph, reference.manifest, provider, setup)
    images = probe_images(reference.manifest, max((2, *setup.batch_sizes)))
    coarse = providers.tolerance(provider, setup.precision)

    def run(images: NDArray[np.uint8]) -> Arrays:
        try:
            return session.run(images)._asdict()
        except Exception as error:
            does_not = f"{provider} starts but does not compute {len(images)} pictures"
            raise ProviderUnavailable(f"{does_not}: {_first_line(error)}") from error

    for count in sorted({2, *setup.batch_sizes}):
        found = compare(run(images[:count]), reference.run(images[:count])._asdict())
        if wrong := complaint(found, coarse):
            raise ProviderUnavailable(f"{provider} does not give the CPU's answers for {count} pictures: {wrong}")
    if wrong := parity_complaint(reference.manifest, run, coarse):
        raise ProviderUnavailable(f"{provider} does not give the answers that the manifest has stored: {wrong}")
    return session


def _make_room(engines: Path | None) -> None:
    if engines is None:
        if cuda.gpus():
            _log.warning("TensorRT builds its engines at every start, for minutes: set MARROWLENS_ENGINE_CACHE")
        return
    if not providers.engines_in(engines):
        _log.warning("TensorRT builds its engines now, for minutes, into %s", engines)
    try:
        engines.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProviderUnavailable(f"the engine cache {engines} cannot be made: {error.strerror}") from error


def _first_that_starts(graph: bytes, manifest: Manifest, provider: Provider, setup: Setup) -> OnnxSession:
    refusal = ProviderUnavailable(f"{provider} does not start; it needs {providers.needs(provider)}")
    for attempt in providers.attempts(provider, setup):
        try:
            session = _attempted(graph, manifest, provider, setup, attempt)
        except Exception as error:
            reason = f"{provider} does not start ({_first_line(error)}); it needs {providers.needs(provider)}"
            refusal = ProviderUnavailable(reason)
            continue
        if session is not None:
            if attempt.given_up:
                _log.warning("%s does without %s: with them, %s", provider, attempt.given_up, refusal)
            return session
    raise refusal


def _attempted(
    graph: bytes, manifest: Manifest, provider: Provider, setup: Setup, attempt: Attempt
) -> OnnxSession | None:
    """A session that has computed, or None where onnxruntime went on without the provider and said so on stderr."""
    started = _start(graph, setup.intra_op_threads, attempt)
    if providers.NAMES[provider] not in started.get_providers():
        return None
    session = OnnxSession(manifest, provider, started, _bound(started, manifest, setup, attempt))
    session.run(probe_images(manifest))
    return session


def _bound(
    started: onnxruntime.InferenceSession, manifest: Manifest, setup: Setup, attempt: Attempt
) -> BoundCalls | None:
    if not attempt.fixed_buffers:
        return None
    size = manifest.preprocessing.input_size
    shapes = {name: tuple(int(side) for side in manifest.outputs[name][1:]) for name in OUTPUTS}
    return BoundCalls(
        started,
        input=(INPUT, (size, size, 3)),
        outputs=shapes,
        batch_sizes=setup.batch_sizes,
        graphs=attempt.graphs,
    )


def _start(graph: bytes, intra_op_threads: int, attempt: Attempt) -> onnxruntime.InferenceSession:
    # Without enable_fallback=0 a provider that fails is replaced with a line on stdout.
    return onnxruntime.InferenceSession(
        graph, session_options(intra_op_threads), providers=list(attempt.providers), enable_fallback=0
    )


def session_options(intra_op_threads: int) -> onnxruntime.SessionOptions:
    """As measured by bench/session_options.py; the table stands in docs/providers.md."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads  # never left to onnxruntime, which counts the machine's cores
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # one plan for each batch size: more memory, and no faster
    options.log_severity_level = 3  # errors
    # Spinning threads take the cores that decoding needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _load_libraries(provider: Provider) -> None:
    """CUDA, cuDNN and TensorRT from their wheels, where the system has none. What is missing shows at the start."""
    if provider not in ("cuda", "tensorrt"):
        return
    with contextlib.redirect_stdout(io.StringIO()) as said:  # it prints, and stdout is a command's answer
        onnxruntime.preload_dlls()
    _log.debug("onnxruntime.preload_dlls: %s", said.getvalue().strip() or "all loaded")
    if provider == "tensorrt" and not cuda.load_tensorrt():
        _log.debug("TensorRT's libraries do not load")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
