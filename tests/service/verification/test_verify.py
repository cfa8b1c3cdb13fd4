"""`marrowlens verify`: the report's figures against other programs, and what each input does."""

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from known import known_cells, red_cells
from pypdf import PdfReader
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, cohen_kappa_score
from typer.testing import CliRunner, Result

from model.contract import read_manifest
from service.cli.main import app
from service.runtime.session import open_session

PATIENTS = 5
PATIENT = "Müller-1957"
NONE = "none"  # the label of a class that the model does not have


def verify(folder: Path, out: Path, artefact: Path, *options: str | Path) -> Result:
    arguments = ["verify", str(folder), "--out", str(out), "--artefact", str(artefact), *map(str, options)]
    return CliRunner().invoke(app, arguments)


def said(result: Result) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", result.output).split())


class Lab(NamedTuple):
    """A laboratory's folder, the label of each cell, and the model's artefact."""

    folder: Path
    artefact: Path
    labels: dict[str, str]  # picture → label


@pytest.fixture(scope="module")
def predictions(trusted_artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes, str]]:
    """115 drawn cells, and the class that the model predicts for each, by `marrowlens score`."""
    folder = tmp_path_factory.mktemp("drawn")
    pictures = known_cells(115, first_seed=5000)
    for number, data in enumerate(pictures):
        (folder / f"{number:03d}.png").write_bytes(data)
    table = folder / "table.csv"
    run = CliRunner().invoke(app, ["score", str(folder), "--out", str(table), "--artefact", str(trusted_artefact)])
    assert run.exit_code == 0, run.output
    codes = {row["path"]: row["code"] for row in _table(table)}
    return [(data, codes[f"{number:03d}.png"]) for number, data in enumerate(pictures)]


@pytest.fixture(scope="module")
def lab(predictions: list[tuple[bytes, str]], trusted_artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Folders by class and patient. Every tenth cell has another label than the model's prediction; two fields of red
    cells are labelled as a class that the model does not have."""
    folder = tmp_path_factory.mktemp("lab")
    common = [code for code, _ in Counter(code for _, code in predictions).most_common(2)]
    labels = {}
    for number, (data, predicted) in enumerate(predictions):
        label = next(code for code in common if code != predicted) if number % 10 == 0 else predicted
        labels[f"{label}/{PATIENT}-{number % PATIENTS}/{number:03d}.png"] = label
        _write(folder, f"{label}/{PATIENT}-{number % PATIENTS}/{number:03d}.png", data)
    for seed in (1, 2):
        _write(folder, f"mast cells/{PATIENT}-{seed}/{seed}.png", red_cells(seed))
    return Lab(folder, trusted_artefact, labels)


def _write(folder: Path, name: str, data: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


@pytest.fixture(scope="module")
def report(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the laboratory's folder."""
    out = tmp_path_factory.mktemp("report")
    result = verify(lab.folder, out, lab.artefact, "--map", "mast cells=none", "--write-trust", out / "site.json")
    assert result.exit_code in (0, 1), result.output
    return out


@pytest.fixture(scope="module")
def document(report: Path) -> dict[str, Any]:
    return json.loads((report / "verification.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def cells(report: Path) -> list[dict[str, str]]:
    return _table(report / "cells.csv")


def _table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_every_cell_is_listed_with_its_label(cells: list[dict[str, str]], lab: Lab) -> None:
    listed = {row["file"]: row["label"] for row in cells}
    assert {name: label for name, label in listed.items() if label != NONE} == lab.labels
    assert sum(label == NONE for label in listed.values()) == 2


def test_figures_are_those_of_other_programs(document: dict[str, Any], cells: list[dict[str, str]], lab: Lab) -> None:
    manifest = read_manifest(lab.artefact.with_suffix(".json"))
    assert manifest.trust is not None
    claimed = [row for row in cells if row["label"] in manifest.trust.sets.thresholds]
    labels, predicted = [row["label"] for row in claimed], [row["predicted"] for row in claimed]
    assert document["accuracy"]["share"] == pytest.approx(accuracy_score(labels, predicted))
    assert document["kappa"]["value"] == pytest.approx(cohen_kappa_score(labels, predicted))
    assert document["kappa"]["low"] < document["kappa"]["value"] < document["kappa"]["high"]
    for each in document["classes"]:
        hits = sum(row["label"] == row["predicted"] == each["code"] for row in cells)
        for name, column in (("sensitivity", "label"), ("predictive_value", "predicted")):
            n = sum(row[column] == each["code"] for row in cells)
            found = each[name]
            assert (found["hits"], found["n"]) == (hits, n)
            if n:
                assert found["share"] == pytest.approx(hits / n)
                assert found["low"] <= found["share"] <= found["high"]
        of_class = [[row[column] == each["code"] for row in cells] for column in ("label", "predicted")]
        assert each["kappa"]["value"] == pytest.approx(cohen_kappa_score(*of_class))


def test_decisions_and_sets_are_those_of_the_cells(document: dict[str, Any], cells: list[dict[str, str]]) -> None:
    known, other = ([row for row in cells if (row["label"] == NONE) == is_other] for is_other in (False, True))
    by_name = {each["cells"]: each for each in document["decisions"]}
    parts = [each for name, each in by_name.items() if name != "all labelled cells"]
    assert sum(each["accepted"]["n"] for each in parts) == by_name["all labelled cells"]["accepted"]["n"] == len(cells)
    assert by_name["other classes"]["accuracy_of_accepted"] is None
    everything = by_name["all labelled cells"]["accuracy_of_accepted"]
    right = [row["label"] == row["predicted"] for row in cells if row["decision"] == "accept"]
    assert (everything["hits"], everything["n"]) == (sum(right), len(right))
    assert by_name["other classes"]["rejected"]["hits"] == sum(row["decision"] == "reject" for row in other)
    accepted = sum(each["accepted"]["hits"] for each in parts if each["cells"] != "other classes")
    assert accepted == sum(row["decision"] == "accept" for row in known)
    for each in document["sets"][1:]:
        rows = [row for row in cells if row["label"] == each["code"]]
        sizes = [len(row["prediction_set"].split()) for row in rows]
        assert each["covered"]["hits"] == sum(each["code"] in row["prediction_set"].split() for row in rows)
        assert each["mean_size"] == pytest.approx(np.mean(sizes))


def test_the_confusion_matrix_adds_up(document: dict[str, Any], cells: list[dict[str, str]]) -> None:
    expected = Counter((row["label"], row["predicted"]) for row in cells)
    found = {
        (label, predicted): count for label, row in document["confusion"].items() for predicted, count in row.items()
    }
    assert found == dict(expected)


def test_hashes_bind_the_report_to_model_and_pictures(document: dict[str, Any], report: Path, lab: Lab) -> None:
    session = open_session(lab.artefact)
    assert document["model"]["sha256"] == hashlib.sha256(lab.artefact.read_bytes()).hexdigest()
    assert document["model"]["manifest_sha256"] == session.manifest.digest
    digests = [(hashlib.sha256(path.read_bytes()).hexdigest(), path.parts[-3]) for path in lab.folder.rglob("*.png")]
    lines = sorted(f"{digest} {NONE if label == 'mast cells' else label}\n" for digest, label in digests)
    assert document["pictures"]["sha256"] == hashlib.sha256("".join(lines).encode()).hexdigest()
    digest = hashlib.sha256((report / "verification.json").read_bytes()).hexdigest()
    for text in _texts(report):
        assert digest in text
        assert document["model"]["sha256"] in text


def _texts(report: Path) -> Iterator[str]:
    """The text of the HTML and of the PDF, without line breaks."""
    yield (report / "verification.html").read_text(encoding="utf-8")
    pages = PdfReader(io.BytesIO((report / "verification.pdf").read_bytes())).pages
    yield "".join(page.extract_text() for page in pages).replace("\n", "")


def test_the_pdf_has_what_the_html_has(document: dict[str, Any], report: Path) -> None:
    html, pdf = _texts(report)
    for each in document["classes"]:
        if each["supported"]:
            sensitivity = f"{each['sensitivity']['share']:.3f}" if each["sensitivity"]["n"] else each["code"]
            assert sensitivity in html
            assert sensitivity in pdf
    for heading in ("Verdict", "Agreement", "Domain shift", "Differential count over patients", "Signature"):
        assert heading in html
        assert heading in pdf
    assert "Research use only" in pdf
    assert not re.search(r"(src|href)=\"(?!data:|#)", html), "the report loads something"
    assert "<script" not in html


def test_no_patient_and_no_file_leaves_the_table(report: Path) -> None:
    """Only cells.csv has the names of the laboratory's files and folders."""
    for text in (*_texts(report), (report / "verification.json").read_text(), (report / "site.json").read_text()):
        assert PATIENT not in text
        assert ".png" not in text
    assert PATIENT in (report / "cells.csv").read_text(encoding="utf-8")


def test_the_differential_is_compared_over_patients(
    document: dict[str, Any], cells: list[dict[str, str]], lab: Lab
) -> None:
    countable = {
        each.code for each in read_manifest(lab.artefact.with_suffix(".json")).classes if each.countable == "always"
    }
    shares: dict[str, dict[str, list[float]]] = {}
    for method in ("label", "predicted"):
        for number in range(PATIENTS):
            patient = [row[method] for row in cells if f"{PATIENT}-{number}/" in row["file"]]
            counted = [code for code in patient if code in countable]
            for code in countable:
                share = 100 * counted.count(code) / len(counted)
                shares.setdefault(code, {}).setdefault(method, []).append(share)
    assert document["differential"]
    for each in document["differential"]:
        differences = np.subtract(shares[each["code"]]["predicted"], shares[each["code"]]["label"])
        assert each["patients"] == PATIENTS
        assert each["bias"]["value"] == pytest.approx(differences.mean())
        assert each["limits"][1] - each["limits"][0] == pytest.approx(2 * 1.96 * differences.std(ddof=1))


def test_without_patients_intervals_are_wilsons(lab: Lab, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    for path in lab.folder.rglob("*.png"):
        _write(flat, f"{path.parts[-3]}/{path.name}", path.read_bytes())
    verify(flat, tmp_path / "out", lab.artefact, "--map", "mast cells=none")
    found = json.loads((tmp_path / "out/verification.json").read_text())
    assert found["pictures"]["patients"] is None
    assert found["differential"] == []
    for each in found["classes"]:
        rate = each["sensitivity"]
        if rate["n"]:
            expected = binomtest(rate["hits"], rate["n"]).proportion_ci(method="wilson")
            assert (rate["low"], rate["high"]) == pytest.approx((expected.low, expected.high))


def test_goals_decide_the_verdict_and_the_exit_code(lab: Lab, tmp_path: Path) -> None:
    options = ["--map", "mast cells=none", "--precision", "0.3"]
    result = verify(lab.folder, tmp_path / "easy", lab.artefact, *options, "--goal", "0.05")
    judged = _judged(tmp_path / "easy")
    assert {each["verdict"] for each in judged if each["sensitivity"]["n"] > 20} == {"verified"}
    assert result.exit_code == (1 if any(each["verdict"] != "verified" for each in judged) else 0)
    largest = max(judged, key=lambda each: each["sensitivity"]["n"])["code"]
    result = verify(
        lab.folder, tmp_path / "hard", lab.artefact, *options, "--goal", "0.05", "--goal", f"{largest}=0.999"
    )
    changed = {each["code"]: each for each in _judged(tmp_path / "hard")}
    assert result.exit_code == 1
    assert changed[largest]["verdict"] == "not verified"
    assert "not above 0.999" in changed[largest]["why"]
    assert all(changed[each["code"]]["verdict"] == each["verdict"] for each in judged if each["code"] != largest)


def _judged(out: Path) -> list[dict[str, Any]]:
    found = json.loads((out / "verification.json").read_text())
    return [each for each in found["classes"] if each["supported"] and each["sensitivity"]["n"]]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--goal", "1.5"], "--goal 1.5: 1.5 is not a share between 0 and 1, such as 0.85"),
        (["--goal", "0.8", "--goal", "0.9"], "--goal is given twice for all classes"),
        (["--map", "a=BLA", "--map", "a=MON"], "--map a is given twice"),
        (["--goal", "0,8"], "--goal 0,8: 0,8 is not a share between 0 and 1, such as 0.85"),
        (["--goal", "XXX=0.9"], "--goal XXX=0.9: the model has no class XXX; it has"),
        (["--map", "mast cells"], "--map mast cells: write NAME=CODE"),
        (["--map", "mast cells=MAST"], "--map mast cells=MAST: the model has no class MAST; one of"),
        ([], "unknown labels: mast cells. Add --map 'mast cells=CODE'; CODE is none for a class"),
    ],
)
def test_what_cannot_run_says_what_to_do(options: Sequence[str], problem: str, lab: Lab, tmp_path: Path) -> None:
    result = verify(lab.folder, tmp_path / "out", lab.artefact, *options)
    assert result.exit_code == 2
    assert problem in said(result)


def test_a_model_without_trust_is_refused(lab: Lab, artefact: Path, tmp_path: Path) -> None:
    result = verify(lab.folder, tmp_path / "out", artefact, "--map", "mast cells=none")
    assert result.exit_code == 2
    assert "has no trust reference" in said(result)


def test_a_broken_picture_and_a_copy_are_left_out_and_said(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    names = sorted(lab.labels)[:4]
    for name in names:
        _write(folder, f"{lab.labels[name]}/{Path(name).name}", (lab.folder / name).read_bytes())
    _write(folder, f"{lab.labels[names[0]]}/copy.png", (lab.folder / names[0]).read_bytes())
    _write(folder, f"{lab.labels[names[0]]}/broken.png", b"\x89PNG no picture")
    (folder / "notes.txt").write_text("not a picture")
    result = verify(folder, tmp_path / "out", lab.artefact)
    assert result.exit_code in (0, 1), result.output
    pictures = json.loads((tmp_path / "out/verification.json").read_text())["pictures"]
    assert (pictures["used"], pictures["copies"], pictures["unreadable"]) == (4, 1, 1)
    assert "broken.png" in said(result)
    assert "copies of other pictures left out: 1" in said(result)
    again = verify(folder, tmp_path / "out", lab.artefact)
    assert again.exit_code == 2
    assert "has a report; choose another --out" in said(again)
    assert "skipped 1: 1 .txt" in said(result)


def test_one_picture_with_two_labels_is_refused(lab: Lab, tmp_path: Path) -> None:
    name = sorted(lab.labels)[0]
    for code in ("BLA", "LYT"):
        _write(tmp_path / "cells", f"{code}/same.png", (lab.folder / name).read_bytes())
    result = verify(tmp_path / "cells", tmp_path / "out", lab.artefact)
    assert result.exit_code == 2
    assert "BLA/same.png and LYT/same.png are the same picture with the labels BLA and LYT" in said(result)


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_cells_are_too_few(count: int, lab: Lab, tmp_path: Path) -> None:
    right = [name for name in sorted(lab.labels) if int(Path(name).stem) % 10]
    for name in right[:count]:
        _write(tmp_path / "cells", f"{lab.labels[name]}/{Path(name).name}", (lab.folder / name).read_bytes())
    result = verify(tmp_path / "cells", tmp_path / "out", lab.artefact)
    assert result.exit_code == 1, result.output
    judged = _judged(tmp_path / "out")
    assert judged
    assert all(each["verdict"] == "too few" and each["missing_cells"] for each in judged)
    assert (
        verify(tmp_path / "cells", tmp_path / "out", lab.artefact, "--write-trust", tmp_path / "site.json").exit_code
        == 2
    )
    assert not (tmp_path / "site.json").exists()


def test_readers_are_compared_on_the_cells_on_which_they_disagree_too(lab: Lab, tmp_path: Path) -> None:
    names = sorted(lab.labels)[:60]
    rows = ["file,label,reader", *(f"{name},{lab.labels[name]},Ada" for name in names)]
    other = {True: "BLA", False: "LYT"}
    second = [other[lab.labels[name] != "BLA"] if at % 4 == 0 else lab.labels[name] for at, name in enumerate(names)]
    rows += [f"{name},{label},Grace" for name, label in zip(names, second, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(rows), encoding="utf-8")
    result = verify(lab.folder, tmp_path / "out", lab.artefact, "--labels", tmp_path / "labels.csv")
    assert result.exit_code in (0, 1), result.output
    found = json.loads((tmp_path / "out/verification.json").read_text())
    (pair,) = (each for each in found["readers"] if {each["first"], each["second"]} == {"Ada", "Grace"})
    first = [lab.labels[name] for name in names]
    assert pair["agreement"]["share"] == pytest.approx(45 / 60)
    assert pair["kappa"]["value"] == pytest.approx(cohen_kappa_score(first, second))
    assert found["pictures"]["undecided"] == 15
    assert sum(each["accepted"]["n"] for each in found["decisions"] if each["cells"] == "all labelled cells") == 45
    cells = _table(tmp_path / "out/cells.csv")
    assert sum(row["label"] == "undecided" for row in cells) == 15
    assert [(row["Ada"], row["Grace"]) for row in cells[:2]] == [(first[0], second[0]), (first[1], second[1])]
    assert "Warning: 15 cells (25%)" in (tmp_path / "out/verification.html").read_text()
