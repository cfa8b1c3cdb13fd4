"""The house keeps its shape: who may import whom, what a wheel holds, how long and how named a file may be."""

import ast
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import pytest
from checkout import ROOT

PACKAGES = ("model", "service", "training")
FOLDERS = (*PACKAGES, "tests", "bench", "stress", "docker", "k8s", "docs", "examples")

MAX_FILE_LINES = 500
#: Half of all functions are shorter than this; a single one may be as long as it reads well.
MEDIAN_FUNCTION_LINES = 12
#: Names that say nothing of what is inside.
EMPTY_WORDS = {"base", "common", "handler", "helper", "helpers", "manager", "misc", "util", "utils"}


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def run(*command: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        (
            "service.app",
            {"torch", "torchvision", "lightning", "timm", "training", "model.van", "onnx", "pyarrow", "sqlalchemy"},
        ),
        (
            "service.cli.main",
            {"torch", "lightning", "timm", "training", "model.van", "onnx", "sqlalchemy", "alembic", "hl7"}
            | {"ray", "fsspec", "pyarrow"},
        ),
        (
            "service.cli.serve",
            {"fastapi", "starlette", "uvicorn", "onnxruntime", "numpy", "PIL", "rich", "service.app"},
        ),
        ("service.cli.serving", {"torch", "onnx", "sqlalchemy", "rich"}),
        ("service.cli.worker", {"fastapi", "onnxruntime", "rich"}),  # it imports them without garbage collection
        ("model.contract", {"torch", "onnxruntime", "numpy", "PIL", "service", "training"}),
        ("bench.cli", {"torch", "timm", "lightning", "onnxruntime", "fastapi", "service"}),
        ("model.image", {"torch", "onnxruntime", "service", "training"}),
    ],
)
def test_importing_loads_only_what_it_needs(module: str, unwanted: set[str]) -> None:
    loaded = run(sys.executable, "-c", f"import sys, {module}; print(*sys.modules)")
    assert loaded.returncode == 0, loaded.stderr
    assert module in loaded.stdout.split()
    assert unwanted.isdisjoint(loaded.stdout.split())


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    return run(str(Path(sys.executable).with_name("lint-imports")), "--no-cache", cwd=root)


def test_layers_hold() -> None:
    found = lint_imports(ROOT)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("path", "line", "contract"),
    [
        ("service/config/settings.py", "import torch", "The service runs without torch"),
        ("service/inference/heatmaps.py", "import model.van", "The service runs without torch"),
        ("service/inference/classifier.py", "import onnxruntime", "Few modules run onnxruntime"),
        ("service/inference/batching/batcher.py", "import numpy", "The batcher imports the standard library only"),
        ("service/config/settings.py", "import service.inference.classifier", "Rooms of the service, downwards only"),
        ("service/inference/registry.py", "import service.api.state", "Rooms of the service, downwards only"),
        ("service/lis/domain/report.py", "import service.lis.use_cases", "Rooms of the laboratory, downwards only"),
        ("training/data/samples.py", "import training.fit.train", "Rooms of the training side, downwards only"),
        ("model/contract.py", "import torch", "The contract and the picture code"),
        ("model/van.py", "import service.config.settings", "The networks import no runtime"),
        ("training/config.py", "import service.config.settings", "Training does not import the service"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, path: str, line: str, contract: str) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("*.onnx", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / path).open("a") as file:
        file.write(f"\n{line}\n")
    found = lint_imports(tmp_path)
    broken = [text for text in found.stdout.splitlines() if " BROKEN" in text]
    assert found.returncode == 1
    assert any(text.startswith(contract) for text in broken), found.stdout


def test_packages_are_marked_by_empty_files_and_nothing_else_is_a_package() -> None:
    marks = [path for folder in FOLDERS for path in (ROOT / folder).rglob("__init__.py")]
    assert {path.parent.relative_to(ROOT).parts[0] for path in marks} == set(PACKAGES)
    assert [relative(path) for path in marks if path.stat().st_size] == []


def test_files_are_short() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in sources(*FOLDERS)}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def _function_lengths() -> list[int]:
    return [
        node.end_lineno - node.lineno + 1
        for path in sources(*PACKAGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    ]


def test_most_functions_are_short() -> None:
    assert median(_function_lengths()) < MEDIAN_FUNCTION_LINES


def _imports(path: Path) -> Iterator[str]:
    """Modules that a file imports when it is loaded; not those that it imports for the type checker or when called."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_module_imports_itself_through_others() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sources(*PACKAGES)}
    graph = {name: set(_imports(path)) & names.keys() - {name} for name, path in names.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


@pytest.mark.parametrize("folder", ["bench", "stress"])
def test_rooms_of_the_measuring_programs_import_each_other_one_way(folder: str) -> None:
    paths = [path.relative_to(ROOT).with_suffix("") for path in sources(folder)]
    room_of = {".".join(path.parts): path.parts[1] for path in paths}
    graph: dict[str, set[str]] = {}
    for name, room in room_of.items():
        imported = {room_of[each] for each in _imports(ROOT / f"{name.replace('.', '/')}.py") if each in room_of}
        graph.setdefault(room, set()).update(imported - {room})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_names_say_what_is_inside() -> None:
    names = [path.relative_to(ROOT) for path in sources(*FOLDERS)]
    assert [str(name) for name in names if EMPTY_WORDS & set("_".join(name.with_suffix("").parts).split("_"))] == []


def test_modules_say_what_they_know() -> None:
    silent = [
        relative(path)
        for path in sources(*PACKAGES)
        if path.name != "__init__.py" and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder))
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_a_wheel_holds_the_three_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    wanted = {
        relative(path)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == wanted


def test_a_wheel_serves_from_its_own_files(wheel: Path, tmp_path: Path) -> None:
    # An editable install puts the checkout on the path, where a file missing from the wheel would still be found.
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    found = run(
        sys.executable,
        "-P",
        "-c",
        "import service.app, model.contract; print(service.app.__file__); print(model.contract.__file__)",
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [str(tmp_path / "service/app.py"), str(tmp_path / "model/contract.py")]
