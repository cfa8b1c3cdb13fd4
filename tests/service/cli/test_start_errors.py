"""`marrowlens serve` with an unusable artefact: one line that names the file, and exit code 2."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from graphs import change_weight, edit_manifest, store_probes, write_artefact
from serving import COMMAND, served

from model.contract import CLASSES
from service.runtime.artifact import sha256

Fault = Callable[[Path, Path], None]


def _graph(content: Callable[[bytes], bytes]) -> Fault:
    """Replace the graph and its hash in the manifest: only the graph is wrong."""

    def spoil(graph: Path, manifest: Path) -> None:  # noqa: ARG001
        graph.write_bytes(content(graph.read_bytes()))
        edit_manifest(graph, sha256=sha256(graph.read_bytes()))

    return spoil


def _of_other_weights(graph: Path, manifest: Path) -> None:  # noqa: ARG001
    """A valid graph with a changed weight: its outputs differ from the stored ones."""
    store_probes(graph)
    change_weight(graph, "head", lambda head: head * np.float32(1.01))


def _manifest(content: bytes) -> Fault:
    return lambda graph, manifest: _write(manifest, content)  # noqa: ARG005


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _of_fewer_classes(graph: Path, manifest: Path) -> None:
    """A valid manifest of a model with one class less."""
    other = write_artefact(graph.parent, classes=CLASSES[:-1], name="other")
    shutil.copy(other.with_suffix(".json"), manifest)
    edit_manifest(graph, sha256=sha256(graph.read_bytes()))


def _without_a_key(graph: Path, manifest: Path) -> None:  # noqa: ARG001
    found = json.loads(manifest.read_text())
    del found["temperature"]
    manifest.write_text(json.dumps(found))


def _circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


#: description → how to cause it, suffix of the file that is named, and part of the message
FAULTS: dict[str, tuple[Fault, str, str]] = {
    "graph cut off": (_graph(lambda data: data[: len(data) // 2]), ".onnx", "is not an ONNX file"),
    "graph empty": (_graph(lambda _: b""), ".onnx", "is not an ONNX file"),
    "graph of zeros": (_graph(lambda data: bytes(len(data))), ".onnx", "is not an ONNX file"),
    "graph is another file": (_graph(lambda _: b"\x89PNG\r\n\x1a\n" * 99), ".onnx", "is not an ONNX file"),
    "graph of other weights": (_of_other_weights, ".onnx", "does not compute the outputs stored in its manifest"),
    "graph missing": (lambda graph, _: graph.unlink(), ".onnx", "cannot be read (No such file"),
    "graph is a folder": (lambda graph, _: _folder(graph), ".onnx", "cannot be read (a folder, not a regular file"),
    "graph is a link to itself": (lambda graph, _: _circle(graph), ".onnx", "cannot be read (Too many levels"),
    "graph damaged": (lambda graph, _: _write(graph, graph.read_bytes()[:-1]), ".onnx", "its sha256 is"),
    "graph emptied": (lambda graph, _: _write(graph, b""), ".onnx", "its sha256 is"),
    "manifest of another model": (lambda graph, _: edit_manifest(graph, sha256="0" * 64), ".onnx", "its sha256 is"),
    "manifest of fewer classes": (_of_fewer_classes, ".onnx", "of shape"),
    "classes without the rest": (lambda graph, _: edit_manifest(graph, classes=[]), ".json", "not a manifest of"),
    "manifest of another schema": (lambda graph, _: edit_manifest(graph, schema_version=99), ".json", "schema_version"),
    "manifest with a key too many": (lambda graph, _: edit_manifest(graph, colour="red"), ".json", "colour"),
    "manifest with a key too few": (_without_a_key, ".json", "temperature"),
    "manifest missing": (lambda _, manifest: manifest.unlink(), ".json", "cannot be read (No such file"),
    "manifest is a folder": (
        lambda _, manifest: _folder(manifest),
        ".json",
        "cannot be read (a folder, not a regular file",
    ),
    "manifest empty": (_manifest(b""), ".json", "not a manifest of schema"),
    "manifest not JSON": (_manifest(b"name: micro\n"), ".json", "not a manifest of schema"),
    "manifest not text": (_manifest(b"\xff\xfe\x00"), ".json", "not a manifest of schema"),
    "manifest a list": (_manifest(b"[]"), ".json", "not a manifest of schema"),
    "manifest too deep": (_manifest(b"[" * 100_000), ".json", "not a manifest of schema"),
}


def ended_with(artefact: Path, named: Path, said: str, through: Sequence[str] = ()) -> None:
    with served(artefact, through=through) as service:
        assert service.wait_ended() == 2, service.lines
    assert len(service.lines) == 1, service.lines
    (line,) = service.lines
    assert line.startswith(f"marrowlens: {named}: ")
    assert said in line
    assert len(line) < 1000


@pytest.mark.parametrize("fault", FAULTS)
def test_an_artefact_that_cannot_be_served_is_said_in_one_line(fault: str, tmp_path: Path) -> None:
    artefact = write_artefact(tmp_path)
    spoil, named, said = FAULTS[fault]
    spoil(artefact, artefact.with_suffix(".json"))
    ended_with(artefact, artefact.with_suffix(named), said)


@pytest.mark.parametrize(
    ("settings", "said"), [({"prot": "1"}, "MARROWLENS_PROT"), ({}, ".onnx: ")], ids=["a setting", "the model"]
)
def test_with_json_lines_the_reason_is_one_too(settings: dict[str, str], said: str, tmp_path: Path) -> None:
    with served(tmp_path / "none.onnx", log_format="json", **settings) as service:
        assert service.wait_ended() == 2
    (line,) = service.lines
    assert json.loads(line)["level"] == "critical" and said in json.loads(line)["message"]


@pytest.mark.parametrize("suffix", [".onnx", ".json"])
def test_a_file_that_may_not_be_read(suffix: str, tmp_path: Path) -> None:
    artefact = write_artefact(tmp_path)
    unreadable = artefact.with_suffix(suffix)
    unreadable.chmod(0)
    ended_with(artefact, unreadable, "cannot be read (Permission denied)", _without_the_right_to(unreadable))


@pytest.mark.parametrize("name", ["doctor", "warm"])
def test_a_file_that_may_not_be_read_is_a_usage_error_of_the_other_commands(name: str, tmp_path: Path) -> None:
    artefact = write_artefact(tmp_path)
    artefact.chmod(0)
    command = [*_without_the_right_to(artefact), COMMAND, name, "--artefact", artefact]
    wide = {**os.environ, "COLUMNS": "1000"}
    result = subprocess.run(command, env=wide, capture_output=True, text=True)
    assert result.returncode == 2 and "is not readable" in result.stderr


def _without_the_right_to(file: Path) -> list[str]:
    """What takes from a root the right to read every file; nothing where this user has no such right."""
    if not os.access(file, os.R_OK):
        return []
    found = shutil.which("setpriv")
    assert found, "these tests, run as root, need setpriv of util-linux"
    return [found, "--bounding-set=-dac_override,-dac_read_search"]
