"""Class lists as TOML, to begin a configuration with: the 21, an artefact's, or one of folders' names.

Knows the contract's classes, artefacts and folders' names. Opens no picture.
"""

from collections.abc import Iterable
from pathlib import Path

import tomlkit

from model.contract import CLASSES, CellClass, read_manifest


def classes_of(source: Path | None) -> list[CellClass]:
    """The classes of an artefact (its .onnx or .json) or of a folder of class folders; without a source, the 21.

    A folder whose name is a code of the 21 is taken for that class; of any other only the name is known.

    Raises:
        ValueError: neither, or a folder name that cannot be a code.
        ArtefactError: the artefact's manifest cannot be read.
    """
    if source is None:
        return list(CLASSES)
    if source.suffix in (".onnx", ".json"):
        return list(read_manifest(source.with_suffix(".json")).classes)
    if not source.is_dir():
        raise ValueError(f"{source}: expected an artefact (.onnx) or a folder with one folder a class")
    names = sorted(entry.name for entry in source.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise ValueError(f"{source}: {len(names)} class folders; two are the least that can be told apart")
    known = {cell_class.code: cell_class for cell_class in CLASSES}
    return [known.get(name) or CellClass(code=name, name=name) for name in names]


def as_toml(classes: Iterable[CellClass]) -> str:
    """`[[classes]]` tables, in logit order; what has its default is left out."""
    tables = tomlkit.aot()
    for cell_class in classes:
        tables.append(tomlkit.item(cell_class.model_dump(exclude_defaults=True)))
    return tomlkit.dumps({"classes": tables})
