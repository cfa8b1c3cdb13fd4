"""The contract: the classes as published, and no manifest that is at odds with itself."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from graphs import edit_manifest, store_probes, write_artefact
from pydantic import ValidationError

from model.contract import CLASSES, ArtefactError, CellClass, Manifest, manifest_text, read_manifest
from service.runtime.artifact import bundled_artefact

PAPER_ORDER = "ABE ART BAS BLA EBO EOS FGC HAC KSC LYI LYT MMZ MON MYB NGB NGS NIF OTH PEB PLM PMO".split()


def test_the_classes_stand_in_the_papers_order() -> None:
    assert [cell_class.code for cell_class in CLASSES] == PAPER_ORDER


def test_what_no_one_counts_is_never_countable() -> None:
    assert [c.code for c in CLASSES if c.countable == "never"] == ["ART", "KSC", "NIF"]
    assert [c.code for c in CLASSES if c.countable == "by_setting"] == ["OTH"]


def test_a_manifest_reads_back_as_it_was_written(artefact: Path) -> None:
    manifest = read_manifest(artefact.with_suffix(".json"))
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert manifest.codes == tuple(PAPER_ORDER)


def test_a_manifest_without_attention_reads_back_as_it_was_written(tmp_path: Path) -> None:
    artefact = write_artefact(tmp_path, attention=False)
    manifest = store_probes(artefact)
    assert read_manifest(artefact.with_suffix(".json")) == manifest
    assert manifest.output_names == ("probabilities", "logits", "evidence", "embedding")
    assert not manifest.has_attention
    assert '"attention"' not in artefact.with_suffix(".json").read_text()


def test_lesions_and_inert_parts_read_back_as_they_were_written(tmp_path: Path) -> None:
    artefact = write_artefact(tmp_path)
    edit_manifest(artefact, lesions=[_lesion(), _lesion("stem 3x3", changed=0.5)], inert=["MLKA"])
    manifest = read_manifest(artefact.with_suffix(".json"))
    assert manifest.inert == ("MLKA",)
    assert manifest.lesions[1].changed == 0.5
    written = json.loads(manifest_text(manifest))
    assert [entry["part"] for entry in written["lesions"]] == ["MLKA", "stem 3x3"]
    assert written["inert"] == ["MLKA"]


def test_the_bundled_manifest_has_the_bytes_of_its_text(bundled: Manifest) -> None:
    assert bundled_artefact().with_suffix(".json").read_text() == manifest_text(bundled)


def test_another_laboratorys_classes_are_welcome(tmp_path: Path) -> None:
    classes = (CellClass(code="A-1", name="One"), CellClass(code="B.2", name="Two"))
    assert read_manifest(write_artefact(tmp_path, classes=classes).with_suffix(".json")).codes == ("A-1", "B.2")


def _drop_a_bias(manifest: dict) -> None:
    manifest["bias"].pop()


def _claim_an_untrained_class(manifest: dict) -> None:
    manifest["training_images"]["ABE"] = 0
    manifest["unsupported"] = []


def _repeat_a_class(manifest: dict) -> None:
    manifest["classes"][1] = manifest["classes"][0]


def _forget_a_count(manifest: dict) -> None:
    del manifest["training_images"]["PMO"]


def _narrow_the_logits(manifest: dict) -> None:
    manifest["outputs"]["logits"] = ["N", 20]


def _lose_an_output(manifest: dict) -> None:
    del manifest["outputs"]["evidence"]


def _lose_attention_but_not_its_scales(manifest: dict) -> None:
    del manifest["outputs"]["attention"]


def _lose_the_scales(manifest: dict) -> None:
    manifest["attention_scales"] = []
    manifest["outputs"]["attention"][1] = 0


def _add_an_output(manifest: dict) -> None:
    manifest["outputs"]["heat"] = ["N", 21]


def _store_no_attention(manifest: dict) -> None:
    manifest["probes"] = _stored_answers()
    del manifest["probes"]["attention"]


def _store_attention_of_a_graph_without_it(manifest: dict) -> None:
    _lose_attention_but_not_its_scales(manifest)
    manifest["attention_scales"] = []
    manifest["probes"] = _stored_answers()


def _lesion(part: str = "MLKA", **changes: object) -> dict:
    return {"part": part, "n": 100, "changed": 0.01, "accuracy_change": 0.0, **changes}


def _call_inert_what_was_not_measured(manifest: dict) -> None:
    manifest["lesions"], manifest["inert"] = [_lesion("MLKA")], ["MLKA", "cross-scale attention"]


def _measure_a_part_twice(manifest: dict) -> None:
    manifest["lesions"] = [_lesion(), _lesion()]


def _join_two_parts(manifest: dict) -> None:
    manifest["lesions"] = [_lesion("MLKA,stem")]


def _change_more_answers_than_there_are(manifest: dict) -> None:
    manifest["lesions"] = [_lesion(changed=1.5)]


def _name_a_stranger(manifest: dict) -> None:
    manifest["unsupported"] = [*manifest["unsupported"], "XYZ"]


def _stored_answers(**changes: object) -> dict:
    ones = {"attention": [1.0], "evidence": [1.0], "embedding": [1.0]}
    return {"images_sha256": "0" * 64, "logits": [[0.5] * 21], **ones, **changes}


def _store_too_few_logits(manifest: dict) -> None:
    manifest["probes"] = _stored_answers(logits=[[0.5] * 20])


def _forget_a_picture(manifest: dict) -> None:
    manifest["probes"] = _stored_answers(evidence=[])


def _store_no_picture(manifest: dict) -> None:
    manifest["probes"] = _stored_answers(logits=[], attention=[], evidence=[], embedding=[])


def _store_what_is_no_number(manifest: dict) -> None:
    manifest["probes"] = _stored_answers(embedding=[float("nan")])


def _store_a_stranger(manifest: dict) -> None:
    manifest["probes"] = _stored_answers(saliency=[1.0])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_drop_a_bias, "bias has 20 values for 21 classes"),
        (_claim_an_untrained_class, "ABE"),
        (_repeat_a_class, "share a code"),
        (_forget_a_count, "exactly the classes"),
        (_narrow_the_logits, "outputs must be"),
        (_lose_an_output, "ranks"),
        (_lose_attention_but_not_its_scales, r"outputs lacks attention, but attention_scales is \['3-5-1', "),
        (_lose_the_scales, r"outputs contains attention, but attention_scales is \[\]; a model has both or neither"),
        (_add_an_output, "only attention may be absent"),
        (_store_no_attention, "probes.attention is absent, but"),
        (_store_attention_of_a_graph_without_it, "probes.attention is present, but"),
        (_call_inert_what_was_not_measured, r"without an entry in lesions: \['cross-scale attention'\]"),
        (_measure_a_part_twice, "parts must be unique"),
        (_join_two_parts, "lesions.0.part"),
        (_change_more_answers_than_there_are, "lesions.0.changed"),
        (_name_a_stranger, "XYZ"),
        (_store_too_few_logits, "probes.logits must have 21 values for each image"),
        (_forget_a_picture, r"probes: .*are of \[0, 1\] images"),
        (_store_no_picture, "probes.logits"),
        (_store_what_is_no_number, "probes.embedding.0: .*finite number"),
        (_store_a_stranger, "probes.saliency: Extra inputs"),
    ],
)
def test_a_manifest_at_odds_with_itself_is_refused(
    artefact: Path, tmp_path: Path, spoil: Callable[[dict], None], says: str
) -> None:
    manifest = json.loads(artefact.with_suffix(".json").read_text())
    spoil(manifest)
    path = tmp_path / "spoilt.json"
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match=says):
        read_manifest(path)


@pytest.mark.parametrize("changes", [{"schema_version": 2}, {"surprise": 1}, {"temperature": 0}, {"sha256": "short"}])
def test_a_manifest_of_another_schema_is_refused_by_key(tmp_path: Path, changes: dict) -> None:
    artefact = write_artefact(tmp_path)
    edit_manifest(artefact, **changes)
    with pytest.raises(ArtefactError, match=next(iter(changes))):
        read_manifest(artefact.with_suffix(".json"))


def test_a_missing_manifest_is_an_artefact_error(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="cannot be read"):
        read_manifest(tmp_path / "none.json")


def test_a_manifest_cannot_be_changed(artefact: Path) -> None:
    manifest = read_manifest(artefact.with_suffix(".json"))
    with pytest.raises(ValidationError):
        manifest.temperature = 2.0  # type: ignore[misc]


def test_input_sizes_fit_the_grid(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="multiple of 32"):
        write_artefact(tmp_path, input_size=100)


@pytest.fixture
def bundled() -> Manifest:
    return read_manifest(bundled_artefact().with_suffix(".json"))


def test_the_bundled_manifest_says_what_the_split_was(bundled: Manifest) -> None:
    assert set(bundled.unsupported) >= {c for c, n in bundled.training_images.items() if n == 0}
    assert all(metric.split and metric.n for metric in bundled.metrics if metric.name != "precision")


def test_sources_add_up_to_the_training_images(bundled: Manifest) -> None:
    for code in bundled.codes:
        assert bundled.training_images[code] == sum(s.training_images.get(code, 0) for s in bundled.sources)
