"""A laboratory's own thresholds: written by `verify`, used wherever pictures are classified, named in every answer."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known import known_cells
from serving import client
from typer.testing import CliRunner

from model.contract import ArtefactError, read_manifest
from model.trust.site import with_site_trust
from service.cli.main import app
from service.config.settings import Settings
from service.runtime.loader import load_session

FOLDS_COVER = 0.8  # of 110 cells: the nominal 0.9 within sampling


@pytest.fixture(scope="module")
def cells() -> list[bytes]:
    return known_cells(110, first_seed=9000)


@pytest.fixture(scope="module")
def verified(trusted_artefact: Path, cells: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report and the thresholds of a laboratory with other cells than the model's known cells."""
    folder, out = tmp_path_factory.mktemp("cells"), tmp_path_factory.mktemp("report")
    with client(trusted_artefact) as http:
        for number, data in enumerate(cells):
            code = _post(http, data)["prediction"]["code"]
            (folder / code).mkdir(exist_ok=True)
            (folder / code / f"{number}.png").write_bytes(data)
    arguments = ["verify", str(folder), "--out", str(out), "--artefact", str(trusted_artefact)]
    result = CliRunner().invoke(app, [*arguments, "--write-trust", str(out / "site.json")])
    assert result.exit_code in (0, 1), result.output
    return out


@pytest.fixture(scope="module")
def site(verified: Path) -> Path:
    return verified / "site.json"


def _post(http: Any, data: bytes) -> Any:
    answer = http.post("/classify", content=data, headers={"content-type": "image/png"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_file_is_named_in_the_report_with_cross_fitted_figures(verified: Path, site: Path) -> None:
    document = json.loads((verified / "verification.json").read_text())
    found = document["site_trust"]
    assert found["sha256"] == hashlib.sha256(site.read_bytes()).hexdigest()
    assert found["decisions"]["rejected"]["share"] <= 0.1
    assert found["sets"][0]["covered"]["share"] >= FOLDS_COVER


def test_answers_name_the_file_and_use_its_thresholds(trusted_artefact: Path, site: Path, cells: list[bytes]) -> None:
    digest = hashlib.sha256(site.read_bytes()).hexdigest()
    session = load_session(Settings(artefact=trusted_artefact, trust_reference=site))
    written = json.loads(site.read_text())["trust"]
    with client(trusted_artefact, session=session) as http, client(trusted_artefact) as own:
        answers = [(_post(http, data), _post(own, data)) for data in cells[:30]]
        batch = http.post("/classify/batch", files=[("images", ("a.png", cells[0], "image/png"))]).json()
        v2 = http.get(f"/v2/models/{session.manifest.name}").json()
        described = http.get("/model").json()
    for found, models in answers:
        assert found["model"]["site_trust_sha256"] == digest
        assert "site_trust_sha256" not in models["model"]
        assert found["model"]["manifest_sha256"] != models["model"]["manifest_sha256"]
        assert found["model"]["sha256"] == models["model"]["sha256"]
        assert found["probabilities"] == models["probabilities"]
        above = sum(distance >= np.float32(found["novelty"]["score"]) for distance in written["novelty"]["distances"])
        expected = (above + 1) / (len(written["novelty"]["distances"]) + 1)
        assert found["novelty"]["p_value"] == pytest.approx(expected, abs=0.01)
    assert any(found["novelty"]["p_value"] != models["novelty"]["p_value"] for found, models in answers)
    assert batch["model"]["site_trust_sha256"] == v2["parameters"]["site_trust_sha256"] == digest
    assert described["trust"]["source"] == written["source"]


def test_a_table_does_not_mix_thresholds(
    trusted_artefact: Path, site: Path, cells: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells/a.png").write_bytes(cells[0])
    arguments = ["score", str(tmp_path / "cells"), "--artefact", str(trusted_artefact), "--out"]
    assert CliRunner().invoke(app, [*arguments, str(tmp_path / "own.csv")]).exit_code == 0
    monkeypatch.setenv("MARROWLENS_TRUST_REFERENCE", str(site))
    assert CliRunner().invoke(app, [*arguments, str(tmp_path / "site.csv")]).exit_code == 0
    own, of_site = (
        next(csv.DictReader((tmp_path / name).read_text().splitlines())) for name in ("own.csv", "site.csv")
    )
    assert own["manifest_sha256"] != of_site["manifest_sha256"]
    mixed = CliRunner().invoke(app, [*arguments, str(tmp_path / "own.csv")])
    assert mixed.exit_code == 2
    assert "was written with manifest" in " ".join(mixed.output.split())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda file: file | {"model_sha256": "0" * 64}, "make one for it with `marrowlens verify --write-trust`"),
        (lambda file: file | {"extra": 1}, "is not a laboratory's trust reference: extra"),
        (lambda file: file | {"pictures": ["patient"]}, "is not a laboratory's trust reference: pictures"),
        (lambda file: {"schema_version": 1}, "is not a laboratory's trust reference: model"),  # noqa: ARG005
        (
            lambda file: file | {"trust": file["trust"] | {"confusion": {}}},
            "is not a laboratory's trust reference: trust: sets.thresholds",
        ),
    ],
)
def test_another_file_is_refused_and_never_ignored(
    change: Any, problem: str, trusted_artefact: Path, site: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(change(json.loads(site.read_text()))))
    with pytest.raises(ArtefactError, match=problem):
        load_session(Settings(artefact=trusted_artefact, trust_reference=changed))
    environment = {"MARROWLENS_ARTEFACT": str(trusted_artefact), "MARROWLENS_TRUST_REFERENCE": str(changed)}
    assert CliRunner().invoke(app, ["config", "check"], env=environment).exit_code != 0


def test_a_missing_file_is_refused(trusted_artefact: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="cannot be read"):
        load_session(Settings(artefact=trusted_artefact, trust_reference=tmp_path / "missing.json"))


def test_thresholds_of_another_models_classes_are_refused(trusted_artefact: Path, site: Path, tmp_path: Path) -> None:
    file = json.loads(site.read_text())
    text = json.dumps(file["trust"]).replace('"EOS"', '"XYZ"')
    (tmp_path / "other.json").write_text(json.dumps(file | {"trust": json.loads(text)}))
    with pytest.raises(ArtefactError, match="does not fit .*trust names classes that the model does not have: XYZ"):
        with_site_trust(read_manifest(trusted_artefact.with_suffix(".json")), tmp_path / "other.json")


def test_a_verification_with_the_cells_that_the_thresholds_were_fitted_to_says_so(
    trusted_artefact: Path, site: Path, cells: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cells/BLA").mkdir(parents=True)
    for number, data in enumerate([*cells[:7], *known_cells(3, first_seed=77_000)]):
        (tmp_path / f"cells/BLA/{number}.png").write_bytes(data)
    monkeypatch.setenv("MARROWLENS_TRUST_REFERENCE", str(site))
    out = tmp_path / "out"
    arguments = ["verify", str(tmp_path / "cells"), "--out", str(out), "--artefact", str(trusted_artefact)]
    assert CliRunner().invoke(app, arguments).exit_code == 1
    found = json.loads((out / "verification.json").read_text())["thresholds"]
    written = set(json.loads(site.read_text())["pictures"])
    used = sum(hashlib.sha256(data).hexdigest()[:16] in written for data in cells[:7])
    assert found["fitted_to"] == used > 0
    assert found["site_trust_sha256"] == hashlib.sha256(site.read_bytes()).hexdigest()
    html = (out / "verification.html").read_text()
    assert f"Warning: the thresholds in force were fitted to {used} of these pictures" in html
    assert found["site_trust_sha256"] in html


def test_classes_without_cells_keep_the_models_thresholds(
    trusted_artefact: Path, cells: list[bytes], tmp_path: Path
) -> None:
    """A laboratory without monocytes must not lose the monocytes."""
    with client(trusted_artefact) as http:
        codes = [_post(http, data)["prediction"]["code"] for data in cells]
    own = read_manifest(trusted_artefact.with_suffix(".json")).trust
    assert own is not None
    common = max(set(codes), key=codes.count)
    for number, (data, code) in enumerate(zip(cells, codes, strict=True)):
        if code == common:
            (tmp_path / "cells" / code).mkdir(parents=True, exist_ok=True)
            (tmp_path / f"cells/{code}/{number}.png").write_bytes(data)
    arguments = ["verify", str(tmp_path / "cells"), "--out", str(tmp_path / "out"), "--artefact", str(trusted_artefact)]
    result = CliRunner().invoke(app, [*arguments, "--write-trust", str(tmp_path / "site.json")])
    assert result.exit_code in (0, 1), result.output
    written = json.loads((tmp_path / "site.json").read_text())["trust"]
    assert set(written["sets"]["thresholds"]) == set(own.sets.thresholds)
    for code in set(own.sets.thresholds) - {common}:
        assert written["sets"]["thresholds"][code] == own.sets.thresholds[code]
        assert written["confusion"][code] == own.confusion[code]
    kept = json.loads((tmp_path / "out/verification.json").read_text())["site_trust"]["kept"]
    assert set(kept) == set(own.sets.thresholds) - {common}
