"""README and docs agree with the code: figures, rooms, routes, commands. A failure shows the text to paste."""

import json
import re
import subprocess
from base64 import b64decode
from pathlib import Path

import pytest
from serving import client
from typer import Context
from typer.main import get_command

from model.contract import Manifest, read_manifest
from service.api.schemas import SentPicture
from service.app import create_app
from service.config.settings import Settings
from service.runtime.artifact import bundled_artefact

README = Path("README.md").read_text(encoding="utf-8")
HTTP_API = Path("docs/http-api.md").read_text(encoding="utf-8")
COMMANDS = Path("docs/commands.md").read_text(encoding="utf-8")


def _bundled() -> Manifest:
    return read_manifest(bundled_artefact().with_suffix(".json"))


def _figures_table(manifest: Manifest) -> str:
    rows = ["| test block | accuracy (95 % interval) | macro F1 (95 % interval) | ECE | n |", "|---|---|---|---|---|"]
    for split in dict.fromkeys(metric.split for metric in manifest.metrics):
        of = {m.name: m for m in manifest.metrics if m.split == split and m.code is None}
        accuracy, f1 = of["accuracy"], of["macro_f1"]
        rows.append(
            f"| {split} | {accuracy.value:.3f} ({accuracy.low:.3f}–{accuracy.high:.3f}) "
            f"| {f1.value:.3f} ({f1.low:.3f}–{f1.high:.3f}) | {of['ece'].value:.3f} | {accuracy.n} |"
        )
    return "\n".join(rows)


def test_the_figures_are_the_manifests() -> None:
    table = _figures_table(_bundled())
    assert table in README, f"put this under `<!-- figures -->`:\n{table}"


def test_the_example_answer_is_the_bundled_models() -> None:
    with client(bundled_artefact()) as service:
        answer = service.post("/classify", files={"image": Path("examples/cell.png").read_bytes()}).json()
    prediction, attention = answer["prediction"], answer["attention"]
    said = (
        f'"prediction": {{"code": "{prediction["code"]}", "name": "{prediction["name"]}", '
        f'"probability": {prediction["probability"]:.2f}, "supported": {str(prediction["supported"]).lower()}, '
        f'"set": {json.dumps(prediction["set"])}}},\n "decision": "{answer["decision"]}",'
    )
    assert said in README, f"put this into the example: {said}"
    novelty = answer["novelty"]
    said = f'"novelty": {{"score": {novelty["score"]:.1f}, "p_value": {novelty["p_value"]:.3f}}}'
    assert said in README, f"put this into the example: {said}"
    assert f'"attention": {{"height": {attention["height"]}, "width": {attention["width"]}, ' in README


def test_the_supported_classes_are_the_manifests() -> None:
    manifest = _bundled()
    supported = [code for code in manifest.codes if code not in manifest.unsupported]
    assert ", ".join(supported) in README


def test_the_readme_names_every_room() -> None:
    tree = README.split("```\nmodel/ ")[1].split("```")[0]
    for package in ("service", "training"):
        part = re.split(r"\n(?=\S)", tree.split(f"\n{package}/")[1])[0]
        named = set(re.findall(r"^  ([a-z_]+)/", part, re.MULTILINE))
        assert named == {path.name for path in Path(package).iterdir() if path.is_dir()} - {"__pycache__"}


def test_the_guide_shows_the_configuration_that_is_there() -> None:
    guide, path = Path("docs/own-classes.md").read_text(encoding="utf-8"), Path("training/configs/finetune.toml")
    assert f"```toml\n{path.read_text(encoding='utf-8')}```" in guide, f"put {path} into docs/own-classes.md"


def test_the_page_of_keys_is_fresh_and_explains_each() -> None:
    from training.commands.configuration import page

    said = page()
    stale = "stale: marrowlens-train configuration --out docs/configuration.md"
    assert Path("docs/configuration.md").read_text(encoding="utf-8") == said, stale
    unexplained = {line.split("`")[1] for line in said.splitlines() if line.endswith("|  |")}
    assert not unexplained


def test_the_lines_that_the_guide_pipes_are_pictures() -> None:
    (loop,) = re.findall(r"^(for f in .*; done) \|", HTTP_API, re.MULTILINE)
    printed = subprocess.run(["sh", "-c", loop], capture_output=True, check=True, timeout=60).stdout
    sent = [SentPicture.model_validate_json(line) for line in printed.splitlines()]
    assert {line.name: b64decode(line.image, validate=True) for line in sent} == {
        str(path): path.read_bytes() for path in Path("examples").glob("*.png")
    }
    assert "base64 -w" not in HTTP_API  # an option of GNU's base64 only


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 220


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = Path(page).read_text(encoding="utf-8")
    assert [path for path in re.findall(r"\]\(((?!http|#)[^)#]+)", text) if not Path(path).exists()] == []


def test_every_route_is_documented() -> None:
    for path in create_app(Settings()).openapi()["paths"]:
        assert f"{path}`" in HTTP_API, path


def test_every_command_is_documented() -> None:
    from service.cli.main import app as serving
    from training.cli import app as training

    context = Context(group := get_command(serving))
    names = group.list_commands(context)
    assert {"serve", "score", "keys", "lis"} <= set(names)
    for name in names:
        command = group.get_command(context, name)
        if not hasattr(command, "list_commands"):
            assert f"`marrowlens {name}`" in COMMANDS
            continue
        rows = "".join(line for line in COMMANDS.splitlines() if line.startswith(f"| `marrowlens {name} "))
        below = command.list_commands(Context(command))
        assert below
        for each in below:
            assert re.search(rf"[ `]{each}`", rows), (name, each)
    for command in training.registered_commands:
        assert f"`marrowlens-train {command.name or command.callback.__name__}`" in COMMANDS
    names = {command.name or command.callback.__name__ for command in training.registered_commands}
    assert set(re.findall(r"`marrowlens-train ([\w-]+)`", COMMANDS)) == names


def test_the_card_is_the_manifests() -> None:
    manifest, card = _bundled(), Path("model/weights/MODEL_CARD.md").read_text(encoding="utf-8")
    assert manifest.sha256 in card
    for metric in manifest.metrics:
        if metric.code is None:
            assert f"| {metric.name} | {metric.value:.3f}" in card
    for source in manifest.sources:
        assert source.attribution in card and source.licence in card
    for limit in manifest.limits:
        assert limit in card


def test_the_changelog_knows_the_version() -> None:
    version = re.search(r'^version = "(.+)"$', Path("pyproject.toml").read_text(), re.MULTILINE)
    assert version and f"[{version[1]}]" in Path("CHANGELOG.md").read_text()
