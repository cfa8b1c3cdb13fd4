"""Calls through fixed buffers, on the CPU: the same logic as on a GPU, with memory that can be looked at."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from model.contract import INPUT, OUTPUTS, read_manifest
from service.runtime.io_binding import FixedBatchCalls, page_locked


def noise(count: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def session(artefact: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(artefact, providers=["CPUExecutionProvider"])


@pytest.fixture
def calls(artefact: Path, session: onnxruntime.InferenceSession) -> FixedBatchCalls:
    shapes = {name: read_manifest(artefact.with_suffix(".json")).outputs[name][1:] for name in OUTPUTS}
    return FixedBatchCalls(session, input=(INPUT, (64, 64, 3)), outputs=shapes, batch_sizes=(4, 1, 2), device="cpu")


def unbound(session: onnxruntime.InferenceSession, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    return list(session.run(OUTPUTS, {INPUT: images}))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 12])
def test_any_number_of_pictures_is_computed_as_without_buffers(
    calls: FixedBatchCalls, session: onnxruntime.InferenceSession, count: int
) -> None:
    for seed in (0, 1):  # the second call meets what the first left in the buffers
        found = calls.run(noise(count, seed))
        for array, expected in zip(found, unbound(session, noise(count, seed)), strict=True):
            assert array.shape == expected.shape
            np.testing.assert_allclose(array, expected, atol=1e-6)


def test_a_fuller_batch_before_leaves_nothing_behind(
    calls: FixedBatchCalls, session: onnxruntime.InferenceSession
) -> None:
    calls.run(np.full((4, 64, 64, 3), 255, np.uint8))
    found = calls.run(noise(3))
    np.testing.assert_allclose(found[1], unbound(session, noise(3))[1], atol=1e-6)


def test_the_caller_keeps_what_he_was_given(calls: FixedBatchCalls) -> None:
    first = calls.run(noise(2, seed=1))
    kept = [array.copy() for array in first]
    calls.run(noise(2, seed=2))
    for array, before in zip(first, kept, strict=True):
        np.testing.assert_array_equal(array, before)
        assert array.flags.owndata and array.flags.writeable


def test_threads_take_turns(calls: FixedBatchCalls, session: onnxruntime.InferenceSession) -> None:
    batches = [noise(count, seed) for seed, count in enumerate([1, 2, 4, 3, 2, 1] * 5)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(calls.run, batches))
    for batch, found in zip(batches, answers, strict=True):
        np.testing.assert_allclose(found[1], unbound(session, batch)[1], atol=1e-6)


def test_a_graph_without_attention_has_four_outputs(
    inert_artefact: Path, session: onnxruntime.InferenceSession
) -> None:
    manifest = read_manifest(inert_artefact.with_suffix(".json"))
    shapes = {name: manifest.outputs[name][1:] for name in manifest.output_names}
    calls = FixedBatchCalls(
        onnxruntime.InferenceSession(inert_artefact, providers=["CPUExecutionProvider"]),
        input=(INPUT, (64, 64, 3)),
        outputs=shapes,
        batch_sizes=(1, 2),
        device="cpu",
    )
    probabilities, logits, _, *others = unbound(session, noise(3))
    for found, expected in zip(calls.run(noise(3)), (probabilities, logits, *others), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_graph_id_is_no_matter_to_the_cpu(artefact: Path, session: onnxruntime.InferenceSession) -> None:
    shapes = {name: read_manifest(artefact.with_suffix(".json")).outputs[name][1:] for name in OUTPUTS}
    calls = FixedBatchCalls(
        session, input=(INPUT, (64, 64, 3)), outputs=shapes, batch_sizes=(1, 2), device="cpu", graphs=True
    )
    np.testing.assert_allclose(calls.run(noise(2))[1], unbound(session, noise(2))[1], atol=1e-6)


def test_locking_pages_changes_nothing_in_them() -> None:
    array = noise(1)
    locked = page_locked(array)
    assert locked is array
    np.testing.assert_array_equal(locked, noise(1))
