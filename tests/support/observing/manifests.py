"""The overlays of k8s/ as tests read them: rendered once, their containers, and the settings these would be given."""

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from checkout import ROOT
from typer.main import get_command

from k8s.rendering import OVERLAYS, Document, documents, kubectl, pods
from service.cli.main import app
from service.config.settings import Settings, read_settings

Container = dict[str, Any]

PAGE = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
ROUTES = json.loads((ROOT / "openapi.json").read_text(encoding="utf-8"))["paths"]

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
needs_kubectl = pytest.mark.skipif(kubectl() is None, reason="kubectl is not here: `make test` fetches it on Linux")


@cache
def rendered(name: str) -> list[Document]:
    """The objects of one overlay. Do not write to them."""
    return documents(OVERLAYS[name])


def of_kind(name: str, kind: str) -> list[Document]:
    """Those of one kind."""
    return [document for document in rendered(name) if document["kind"] == kind]


def containers(name: str) -> Iterator[tuple[str, Document, Document]]:
    """Every container of an overlay: what it is called, its pod's spec, itself."""
    for maker, pod in pods(rendered(name)):
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            yield f"{maker}: {container['name']}", pod["spec"], container


def serves(container: Document) -> bool:
    """Whether it runs `marrowlens serve`, which is what the image does when nothing else is said."""
    return "args" not in container and "command" not in container


def settings(container: Document, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the program reads in this container. A name that is no setting is an error here as it would be there."""
    dockerfile = (ROOT / "docker/service.Dockerfile").read_text(encoding="utf-8")
    with monkeypatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("MARROWLENS_")]:
            environment.delenv(name)
        for name, value in re.findall(r"^\s+(MARROWLENS_\w+)=(\S+)", dockerfile, re.MULTILINE):
            environment.setenv(name, value)
        for variable in container.get("env", []):
            environment.setenv(variable["name"], _value(variable))
        return read_settings()


def _value(variable: dict[str, Any]) -> str:
    # What a Secret holds is not here; the one there is holds a database's URL.
    return str(variable.get("value", "postgresql+psycopg://user:password@database/marrowlens"))


def parsed(words: list[str]) -> dict[str, Any]:
    """A command line as the program reads it; nothing is run.

    Raises:
        ValueError: there is no such command.
        click.UsageError: there is no such option, or its value is none.
    """
    command = get_command(app)
    while hasattr(command, "get_command"):
        name, *words = words
        found = command.get_command(command.context_class(command), name)
        if found is None:
            raise ValueError(f"No such command: {name}")
        command = found
    return dict(command.make_context("marrowlens", list(words)).params)


def selects(selector: Document, labels: dict[str, str]) -> bool:
    """Whether a label selector takes a pod with these labels; `In` is the one expression in use."""
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions
    )
