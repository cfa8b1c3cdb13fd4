"""The guides against the command line and the run folder: commands, options, files and configuration keys exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer

import training.run
from training.cli import app
from training.config import Config, read_config
from training.split_config import ConfigTable

GUIDES = [*Path("docs").glob("*.md"), *Path("docs/start").glob("*.md"), Path("README.md")]
COMMANDS = typer.main.get_command(app).commands
#: A command in a block of shell lines, continued over lines that end with a backslash.
_LINE = re.compile(r"^(?:\s*|.*&& )(?:\.venv/bin/)?marrowlens-train (.+)$", re.MULTILINE)


def _written(guide: Path) -> list[list[str]]:
    text = guide.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in _LINE.findall(block)]
    return [
        shlex.split(command, comments=True) for line in lines for command in re.split(r"&& \S*marrowlens-train ", line)
    ]


@pytest.mark.parametrize("guide", GUIDES, ids=str)
def test_every_command_and_option_of_a_guide_exists(guide: Path) -> None:
    for name, *arguments in _written(guide):
        assert name in COMMANDS, f"{guide}: {name}"
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        used = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
        assert used <= options, f"{guide}: {name} {used - options}"


def test_every_command_has_its_row() -> None:
    rows = set(re.findall(r"^\| `marrowlens-train ([a-z-]+)` \|", Path("docs/commands.md").read_text(), re.MULTILINE))
    assert rows == set(COMMANDS)
    assert all(command.help for command in COMMANDS.values())


def test_every_file_of_a_run_is_in_the_guide() -> None:
    assert training.run.__doc__
    names = re.findall(r"^([a-z_.]+(?:/|\.[a-z]+)) {2,}", training.run.__doc__, re.MULTILINE)
    assert len(names) > 15
    guide = Path("docs/start/ml-engineer.md").read_text()
    elsewhere = {"cache/", "folds.csv", "external.json"}  # of other folders, or deleted at will
    assert [name for name in names if f"`{name}`" not in guide and name not in elsewhere] == []


def test_keys_named_in_the_guides_exist() -> None:
    def keys(kind: type[ConfigTable], path: str = "") -> set[str]:
        found = set()
        for name, field in kind.model_fields.items():
            inner = field.annotation
            found.add(f"{path}{name}")
            if isinstance(inner, type) and issubclass(inner, ConfigTable):
                found |= keys(inner, f"{path}{name}.")
        return found

    known = keys(Config)
    for guide in ("own-classes.md", "start/ml-engineer.md", "training-at-scale.md"):
        text = Path("docs", guide).read_text()
        named = set(re.findall(r"`((?:fit|model|logging|augment|distil|card|trust)\.[a-z_]+)\b", text))
        named -= {"fit.json", "trust.json"}
        assert named <= known, guide


def test_the_template_of_the_guide_is_the_file() -> None:
    block = re.findall(r"```toml\n(.*?)```", Path("docs/own-classes.md").read_text(), re.DOTALL)
    template = Path("training/configs/finetune.toml").read_text()
    assert template.strip() in [one.strip() for one in block]
    assert read_config(Path("training/configs/finetune.toml")).model.init
