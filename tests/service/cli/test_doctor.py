"""`marrowlens doctor` and `marrowlens warm`: output, JSON, exit codes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from model.contract import inert_note
from service.cli.doctor import verdict
from service.cli.main import app
from service.config.settings import Settings
from service.runtime.benchmark import ProviderTrial
from service.runtime.providers import NAMES
from service.runtime.session import offered

ABSENT = next(name for name in ("openvino", "cuda", "tensorrt") if NAMES[name] not in offered())
SMALL = {"MARROWLENS_MAX_BATCH_SIZE": "3", "MARROWLENS_INTRA_OP_THREADS": "1"}


def command(name: str, artefact: Path, *options: str, **environment: str) -> Result:
    return CliRunner().invoke(app, [name, "--artefact", str(artefact), *options], env=SMALL | environment)


def doctor(artefact: Path, *options: str, **environment: str) -> Result:
    return command("doctor", artefact, "--repeats", "1", *options, **environment)


def test_everything_is_told_as_json(artefact: Path) -> None:
    result = doctor(artefact, "--json", MARROWLENS_PROVIDER="cpu")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["works"], document["verdict"]) == (True, "MARROWLENS_PROVIDER=cpu works")
    assert set(document["versions"]) == {"onnxruntime", "CUDA", "cuDNN", "TensorRT"}
    assert document["machine"]["cpus"] >= 1
    by_provider = {trial["provider"]: trial for trial in document["providers"]}
    assert list(by_provider) == list(NAMES)
    assert [size["pictures"] for size in by_provider["cpu"]["sizes"]] == [1, 2, 3]
    assert not by_provider[ABSENT]["works"]
    assert "inert" not in document


def test_a_person_is_told_in_tables(artefact: Path) -> None:
    result = doctor(artefact, MARROWLENS_PROVIDER="cpu")
    assert result.exit_code == 0
    for word in ("processor", "CPUs for this process", "onnxruntime", "pictures/s", "median of 1 calls", *NAMES):
        assert word in result.stdout
    assert result.stdout.splitlines()[-1] == "MARROWLENS_PROVIDER=cpu works"


def test_inert_parts_of_the_model_are_named(inert_artefact: Path) -> None:
    note = inert_note(["MLKA", "cross-scale attention"])
    assert doctor(inert_artefact, MARROWLENS_PROVIDER="cpu").stdout.splitlines()[-1] == note
    document = json.loads(doctor(inert_artefact, "--json", MARROWLENS_PROVIDER="cpu").stdout)
    assert document["inert"] == ["MLKA", "cross-scale attention"]
    outputs = [set(size["differences"]) for trial in document["providers"] for size in trial["sizes"]]
    assert outputs and all(names == {"probabilities", "logits", "evidence", "embedding"} for names in outputs)
    assert note in command("warm", inert_artefact).stdout.splitlines()


def test_a_configured_provider_that_is_absent_is_exit_code_1(artefact: Path) -> None:
    result = doctor(artefact, MARROWLENS_PROVIDER=ABSENT)
    assert result.exit_code == 1
    assert f"MARROWLENS_PROVIDER={ABSENT} does not work: not in the installed onnxruntime: " in result.stdout
    assert "pip install -e '.[service," in result.stdout.splitlines()[-1]


def test_a_model_that_cannot_be_used_is_exit_code_1(tmp_path: Path) -> None:
    result = doctor(tmp_path / "none.onnx")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"marrowlens: {tmp_path / 'none.onnx'}: cannot be read")


@pytest.mark.parametrize("name", ["doctor", "warm"])
def test_bad_settings_are_exit_code_2(artefact: Path, name: str) -> None:
    result = command(name, artefact, MARROWLENS_PROVIDER="tpu")
    assert result.exit_code == 2
    assert result.stderr.startswith("marrowlens: MARROWLENS_PROVIDER=tpu: ")


def trials(**works: bool) -> list[ProviderTrial]:
    return [
        ProviderTrial(name, True, works.get(name, False), None if works.get(name) else "it is broken") for name in NAMES
    ]


def test_auto_works_where_the_cpu_does() -> None:
    assert verdict(Settings(), trials(cpu=True)) == (True, "MARROWLENS_PROVIDER=auto selects cpu, which works")


def test_what_is_broken_is_told_with_its_reason() -> None:
    sentence = "MARROWLENS_PROVIDER=cuda does not work: it is broken"
    assert verdict(Settings(provider="cuda"), trials(cpu=True)) == (False, sentence)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bf16_works_only_where_openvino_computes_in_it(precision: str) -> None:
    found = [
        ProviderTrial(
            name, True, name in ("openvino", "cpu"), "it is broken", precision if name == "openvino" else None
        )
        for name in NAMES
    ]
    works, sentence = verdict(Settings(precision="bf16"), found)
    assert works == (precision == "bf16")
    assert sentence.startswith("MARROWLENS_PROVIDER=auto with MARROWLENS_PRECISION=bf16 ")
    assert not works or sentence.endswith("selects openvino, which works in bf16")


def test_warm_runs_every_batch_size(artefact: Path) -> None:
    result = command("warm", artefact, MARROWLENS_PROVIDER="cpu")
    assert result.exit_code == 0
    first, *batches = result.stdout.splitlines()
    assert first.startswith("opened micro on cpu in fp32, 1 thread, in ")
    assert [line.split(":")[0] for line in batches] == ["batch of 1", "batch of 2", "batch of 3"]


@pytest.mark.parametrize("name", ["warm", "serve"])
def test_an_absent_provider_is_never_replaced(artefact: Path, name: str) -> None:
    result = command(name, artefact, MARROWLENS_PROVIDER=ABSENT)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"marrowlens: the installed onnxruntime has no {ABSENT} provider: pip uninstall ")
    assert result.stdout == ""
