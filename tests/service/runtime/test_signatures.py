"""Verification of a model's files through `marrowlens`: signatures made by openssl, lists made by sha256sum."""

import base64
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import forks
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from graphs import write_artefact
from hypothesis import given
from hypothesis import strategies as st
from keys import bearer, entry, keys_file
from serving import served

from model.contract import ArtefactError
from service.runtime.signatures import (
    SIGNATURE_SUFFIX,
    TrustFileError,
    Verifier,
    check_signature,
    read_key,
    read_list,
)

OPERATOR = "mlk_of-an-operator"
Sign = Callable[[Path], None]


def _run(*command: str | Path, folder: Path) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=True).stdout


def openssl_key(folder: Path, name: str = "ec", kind: str = "EC") -> Path:
    curve = ["-pkeyopt", "ec_paramgen_curve:P-256"] if kind == "EC" else []
    _run("openssl", "genpkey", "-algorithm", kind, *curve, "-out", f"{name}.sec", folder=folder)
    _run("openssl", "pkey", "-in", f"{name}.sec", "-pubout", "-out", f"{name}.pub", folder=folder)
    return folder / f"{name}.pub"


def openssl(public: Path) -> Sign:
    """Signs as `cosign sign-blob --key` does: ECDSA over sha256, in base64."""

    def sign(file: Path) -> None:
        raw = file.with_name(file.name + ".der")
        _run("openssl", "dgst", "-sha256", "-sign", public.with_suffix(".sec"), "-out", raw, file, folder=file.parent)
        _run("openssl", "base64", "-in", raw, "-out", file.with_name(file.name + ".sig"), folder=file.parent)

    return sign


def listing(folder: Path) -> Path:
    """The list that sha256sum writes of a folder's artefacts."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".onnx", ".json"))
    (folder / "SHA256SUMS").write_text(_run("sha256sum", *names, folder=folder))
    return folder / "SHA256SUMS"


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, Path]:
    """An artefact with both files signed, and the public key."""
    model, key = write_artefact(tmp_path), openssl_key(tmp_path)
    for file in (model, model.with_suffix(".json")):
        openssl(key)(file)
    return model, key


def start_refused(artefact: Path, **settings: str) -> str:
    """The one line of a service that did not start."""
    with served(artefact, **settings) as service:
        assert service.wait_ended() == 2
    said = [line for line in service.lines if line.strip()]
    assert len(said) == 1, said
    return said[0]


def test_a_signed_model_serves(signed: tuple[Path, Path]) -> None:
    model, key = signed
    with served(model, artefact_public_key=str(key), artefact_vouched_only="true") as service:
        service.wait_listening()
        assert httpx.get(f"{service.url}/health/ready").status_code == 200


def _other_bytes(file: Path, signature: Path) -> None:  # noqa: ARG001
    file.write_bytes(file.read_bytes() + b" ")


def _no_signature(file: Path, signature: Path) -> None:  # noqa: ARG001
    signature.unlink()


def _cut(file: Path, signature: Path) -> None:  # noqa: ARG001
    signature.write_bytes(signature.read_bytes()[:-20])


def _empty(file: Path, signature: Path) -> None:  # noqa: ARG001
    signature.write_bytes(b"")


@pytest.mark.parametrize("suffix", [".onnx", ".json"])
@pytest.mark.parametrize("spoil", [_other_bytes, _no_signature, _cut, _empty])
def test_neither_file_can_be_other_than_signed(
    spoil: Callable[[Path, Path], None], suffix: str, signed: tuple[Path, Path]
) -> None:
    model, key = signed
    file = model.with_suffix(suffix)
    spoil(file, file.with_name(file.name + SIGNATURE_SUFFIX))
    with pytest.raises(ArtefactError) as refused:
        for each in (model, model.with_suffix(".json")):
            Verifier(public_key=key).check(each, each.read_bytes())
    assert refused.value.path == file
    assert file.name + SIGNATURE_SUFFIX in refused.value.reason


def test_another_key_does_not_do(signed: tuple[Path, Path], tmp_path: Path) -> None:
    model, key = signed
    (tmp_path / "other").mkdir()
    other = openssl_key(tmp_path / "other")
    assert read_key(key) != read_key(other)
    said = start_refused(model, artefact_public_key=str(other))
    assert model.name in said and "key" in said


@pytest.mark.parametrize("spoil", [_other_bytes, _no_signature, _cut])
def test_a_model_that_is_not_as_signed_does_not_start(
    spoil: Callable[[Path, Path], None], signed: tuple[Path, Path]
) -> None:
    model, key = signed
    manifest = model.with_suffix(".json")
    spoil(manifest, manifest.with_name(manifest.name + SIGNATURE_SUFFIX))
    said = start_refused(model, artefact_public_key=str(key))
    assert manifest.name in said and "sign" in said


def test_what_openssl_verifies_and_nothing_else_is_verified_here(tmp_path: Path) -> None:
    """Any byte of the signature changed: openssl and the service both refuse it."""
    key, file = openssl_key(tmp_path), tmp_path / "m.onnx"
    file.write_bytes(b"a graph")
    openssl(key)(file)
    signature = tmp_path / "m.onnx.sig"
    raw = base64.b64decode(signature.read_bytes())
    for at in range(0, len(raw), 3):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        (tmp_path / "changed.der").write_bytes(changed)
        signature.write_bytes(base64.b64encode(changed))
        command = ["openssl", "dgst", "-sha256", "-verify", key, "-signature", tmp_path / "changed.der", file]
        verified = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert verified.returncode != 0
        with pytest.raises(ArtefactError):
            Verifier(public_key=key).check(file, file.read_bytes())
    signature.write_bytes(base64.b64encode(raw))
    Verifier(public_key=key).check(file, file.read_bytes())


def test_a_key_of_minisign_is_refused_and_the_accepted_kind_is_named(tmp_path: Path) -> None:
    key = base64.b64encode(b"Ed" + bytes(40)).decode()
    (tmp_path / "key.pub").write_text(f"untrusted comment: minisign public key 12345678\n{key}\n")
    with pytest.raises(TrustFileError, match="minisign key, which is not supported; use an ECDSA public key in PEM"):
        read_key(tmp_path / "key.pub")


def test_a_list_names_both_files(tmp_path: Path) -> None:
    model = write_artefact(tmp_path)
    listed = listing(tmp_path)
    with served(model, artefact_sha256_file=str(listed)) as service:
        service.wait_listening()
    both = listed.read_text()
    listed.write_text("".join(line for line in both.splitlines(keepends=True) if ".json" not in line))
    assert f"micro.json: is not listed in {listed}" in start_refused(model, artefact_sha256_file=str(listed))
    listed.write_text(both)
    model.with_suffix(".json").write_text(model.with_suffix(".json").read_text() + "\n")
    assert f"micro.json: differs from the file listed in {listed}" in start_refused(
        model, artefact_sha256_file=str(listed)
    )


def test_required_and_nothing_set_is_a_refusal(artefact: Path) -> None:
    said = start_refused(artefact, artefact_vouched_only="true")
    assert "MARROWLENS_ARTEFACT_VOUCHED_ONLY requires it" in said


@pytest.mark.parametrize("setting", ["artefact_sha256_file", "artefact_public_key"])
@pytest.mark.parametrize("content", [None, b"", b"\x00\xff\n", b"untrusted comment: x\nRWQ=\n", b"abc  model.onnx\n"])
def test_what_cannot_be_read_vouches_for_nothing(
    setting: str, content: bytes | None, artefact: Path, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    read = read_list if "sha256" in setting else read_key
    with pytest.raises(TrustFileError, match=str(tmp_path / "file")):
        read(tmp_path / "file")
    if content is None:
        assert f"{tmp_path / 'file'} cannot be read" in start_refused(artefact, **{setting: str(tmp_path / "file")})


def test_a_key_of_rsa_is_none_that_we_read(tmp_path: Path) -> None:
    with pytest.raises(TrustFileError, match="is not an ECDSA key"):
        read_key(openssl_key(tmp_path, kind="RSA"))


def test_every_command_that_opens_a_model_asks(artefact: Path, tmp_path: Path) -> None:
    """The list names other files, so that each must refuse; `lis codes` reads the manifest alone."""
    (tmp_path / "SHA256SUMS").write_text("0" * 64 + "  micro.onnx\n" + "0" * 64 + " *micro.json\n")
    environment = {
        **os.environ,
        "MARROWLENS_ARTEFACT": str(artefact),
        "MARROWLENS_ARTEFACT_SHA256_FILE": str(tmp_path / "SHA256SUMS"),
    }
    for command in (
        ["score", str(tmp_path), "--out", str(tmp_path / "out.csv")],
        ["doctor"],
        ["warm"],
        ["lis", "codes"],
    ):
        ended = forks.run(command, environment)
        assert ended.returncode != 0, command
        assert "differs from the file listed in" in ended.stderr + ended.stdout, (command, ended.stderr)


def test_a_change_to_a_model_that_is_not_vouched_for_changes_nothing(tmp_path: Path) -> None:
    model = write_artefact(tmp_path)
    other = write_artefact(tmp_path, name="other")
    key = openssl_key(tmp_path)
    for file in (model, model.with_suffix(".json"), other):
        openssl(key)(file)
    keys = keys_file(tmp_path, entry(OPERATOR, "operator"))
    with served(model, artefact_public_key=str(key), keys_file=str(keys)) as service:
        service.wait_listening()
        with httpx.Client(base_url=service.url, headers=bearer(OPERATOR), timeout=30) as http:
            before = http.get("/model").json()
            refused = http.post("/model/reload", json={"artefact": other.name})
            assert refused.status_code == 422, refused.text
            assert "other.json.sig" in refused.json()["detail"]
            assert http.get("/model").json() == before
            openssl(key)(other.with_suffix(".json"))
            done = http.post("/model/reload", json={"artefact": other.name})
            assert done.status_code == 200, done.text


KEY = ec.derive_private_key(7, ec.SECP256R1()).public_key()


@given(st.binary(max_size=400))
def test_random_bytes_are_no_valid_signature(noise: bytes) -> None:
    with pytest.raises(ValueError):
        check_signature(KEY, b"a graph", noise)
