"""What a graph's numbers mean is held to the graph: a manifest that names them otherwise is refused, whatever fits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from graphs import edit_manifest, write_artefact
from serving import client, served

from model.contract import CLASSES, ArtefactError, Manifest, manifest_text, read_manifest
from model.meaning import as_metadata, difference, from_metadata, meaning_of
from service.runtime.artifact import bundled_artefact, sha256
from service.runtime.session import open_session

Json = dict[str, Any]


def said(artefact: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(artefact).metadata_props}


def manifest_of(artefact: Path) -> Manifest:
    return read_manifest(artefact.with_suffix(".json"))


def swapped(manifest: Json) -> None:
    order = manifest["classes"]
    order[3], order[20] = order[20], order[3]


def renamed(manifest: Json) -> None:
    manifest["classes"][3]["name"] = "Lymphocyte"


def uncounted(manifest: Json) -> None:
    manifest["classes"][3]["countable"] = "never"


def replaced(manifest: Json) -> None:
    manifest["classes"][3]["code"] = "XYZ"
    manifest["training_images"]["XYZ"] = manifest["training_images"].pop("BLA")


def other_colours(manifest: Json) -> None:
    manifest["preprocessing"]["mean"] = [0.1, 0.2, 0.3]


def other_scales(manifest: Json) -> None:
    manifest["attention_scales"] = manifest["attention_scales"][::-1]


CHANGES = [
    (swapped, "class 3 is BLA in the graph and PMO in the manifest, which has the same classes in another order"),
    (replaced, "class 3 is BLA in the graph and XYZ in the manifest, which has other classes"),
    (renamed, "the name of class BLA is 'Blast' in the graph and 'Lymphocyte' in the manifest"),
    (uncounted, "the countable of class BLA is 'always' in the graph and 'never' in the manifest"),
    (
        other_colours,
        'preprocessing is {"input_size":64,"mean":[0.56,0.45,0.69],"resampling":"bilinear","std":[0.24,0.27,0.17]} in '
        'the graph and {"input_size":64,"mean":[0.1,0.2,0.3],"resampling":"bilinear","std":[0.24,0.27,0.17]} in the '
        "manifest",
    ),
    (
        other_scales,
        'attention_scales is ["3-5-1","5-7-1","7-9-1"] in the graph and ["7-9-1","5-7-1","3-5-1"] in the manifest',
    ),
]


def changed(artefact: Path, change: Callable[[Json], None]) -> None:
    path = artefact.with_suffix(".json")
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    read_manifest(path)  # as good a manifest as any, by itself


@pytest.mark.parametrize(("change", "sentence"), CHANGES)
def test_a_manifest_that_names_the_numbers_otherwise_is_refused(
    tmp_path: Path, change: Callable[[Json], None], sentence: str
) -> None:
    artefact = write_artefact(tmp_path)
    before = manifest_of(artefact)
    changed(artefact, change)
    after = manifest_of(artefact)
    assert (after.name, after.version, after.sha256) == (before.name, before.version, before.sha256)
    with pytest.raises(ArtefactError) as refused:
        open_session(artefact, provider="cpu")
    assert refused.value.reason == f"does not match its manifest: {sentence}"


def test_the_service_does_not_start_with_reordered_classes(tmp_path: Path) -> None:
    artefact = write_artefact(tmp_path)
    changed(artefact, swapped)
    with served(artefact) as service:
        assert service.wait_ended() == 2
    (line,) = service.lines
    assert "BLA in the graph and PMO in the manifest, which has the same classes in another order" in line


def test_a_claim_may_be_withdrawn_for_it_changes_no_meaning(tmp_path: Path) -> None:
    artefact = write_artefact(tmp_path)
    edit_manifest(artefact, unsupported=["ABE", "BLA"])
    assert open_session(artefact, provider="cpu").manifest.unsupported == ("ABE", "BLA")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda words: {},  # noqa: ARG005
        lambda words: {"marrowlens.classes": words["marrowlens.classes"]},
        lambda words: words | {"marrowlens.unheard_of": "1"},
        lambda words: words | {"marrowlens.classes": "[{"},
        lambda words: words | {"marrowlens.attention_scales": "7"},
    ],
)
def test_words_that_are_not_read_here_are_refused(
    tmp_path: Path, spoil: Callable[[dict[str, str]], dict[str, str]]
) -> None:
    artefact = write_artefact(tmp_path)
    model, words = onnx.load(artefact), said(artefact)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, spoil(words))
    onnx.save(model, artefact)
    edit_manifest(artefact, sha256=sha256(artefact.read_bytes()))
    with pytest.raises(ArtefactError, match="has no readable metadata"):
        open_session(artefact, provider="cpu")


def test_words_of_others_in_the_graph_are_theirs() -> None:
    with pytest.raises(ValueError):
        from_metadata({"producer": "somebody", "names": "a,b"})


def test_what_is_written_reads_back(artefact: Path) -> None:
    meaning = meaning_of(manifest_of(artefact))
    read = from_metadata(as_metadata(meaning) | {"names": "a,b"})
    assert difference(read, meaning) is None


# The digest of the manifest


def test_the_digest_is_the_files_however_it_was_laid_out(tmp_path: Path) -> None:
    artefact = write_artefact(tmp_path)
    path, manifest = artefact.with_suffix(".json"), manifest_of(artefact)
    assert sha256(path.read_bytes()) != manifest.digest  # written with other blanks
    path.write_text(manifest_text(manifest), encoding="utf-8")
    assert sha256(path.read_bytes()) == manifest.digest == manifest_of(artefact).digest
    edit_manifest(artefact, limits=["Knows something about cells."])
    assert manifest_of(artefact).digest != manifest.digest


def test_whoever_asks_is_told_the_digest(artefact: Path, draw: Callable[..., bytes]) -> None:
    expected = manifest_of(artefact).digest
    with client(artefact) as http:
        answer = http.post("/classify", files={"image": draw(1)}).json()
        assert answer["model"]["manifest_sha256"] == http.get("/model").json()["manifest_sha256"] == expected
        assert f'manifest_sha256="{expected}"' in http.get("/metrics").text


def test_the_bundled_graph_says_what_its_numbers_mean() -> None:
    read = from_metadata(said(bundled_artefact()))
    assert read is not None and read.classes == CLASSES
    path = bundled_artefact().with_suffix(".json")
    assert sha256(path.read_bytes()) == manifest_of(bundled_artefact()).digest
