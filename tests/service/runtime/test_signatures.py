"""Who vouches for a model: signatures by minisign and openssl themselves, lists by sha256sum, through `marrowlens`."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from graphs import write_artefact
from hypothesis import given
from hypothesis import strategies as st
from keys import bearer, entry, keys_file
from serving import COMMAND, served

from model.contract import ArtefactError
from service.runtime.signatures import EcdsaKey, MinisignKey, Voucher, VoucherError, read_key, read_list

OPERATOR = "mlk_of-an-operator"
Sign = Callable[[Path], None]


def _run(*command: str | Path, folder: Path) -> str:
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=True).stdout


def minisign_key(folder: Path, name: str = "key") -> Path:
    """A new public key; the secret one lies beside it without a password."""
    _run("minisign", "-G", "-W", "-p", f"{name}.pub", "-s", f"{name}.sec", folder=folder)
    return folder / f"{name}.pub"


def minisign(public: Path, *options: str) -> Sign:
    """Signs as the program does."""

    def sign(file: Path) -> None:
        _run("minisign", "-S", *options, "-s", public.with_suffix(".sec"), "-m", file, folder=file.parent)

    return sign


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


KINDS = {
    "minisign": (minisign_key, minisign, ".minisig"),
    "minisign, not prehashed": (minisign_key, lambda key: minisign(key, "-l"), ".minisig"),
    "ECDSA": (openssl_key, openssl, ".sig"),
}


@pytest.fixture(params=KINDS)
def signed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Path, str]]:
    """An artefact of which both files are signed, the key, and the suffix of signatures."""
    make, sign, suffix = KINDS[request.param]
    if request.param != "ECDSA" and shutil.which("minisign") is None:
        pytest.skip("minisign is not here: apt-get install minisign")
    model, key = write_artefact(tmp_path), make(tmp_path)
    for file in (model, model.with_suffix(".json")):
        sign(key)(file)
    yield model, key, suffix


def start_refused(artefact: Path, **settings: str) -> str:
    """The one line of a service that did not start."""
    with served(artefact, **settings) as service:
        assert service.wait_ended() == 2
    said = [line for line in service.lines if line.strip()]
    assert len(said) == 1, said
    return said[0]


def test_a_signed_model_serves(signed: tuple[Path, Path, str]) -> None:
    model, key, _ = signed
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
    spoil: Callable[[Path, Path], None], suffix: str, signed: tuple[Path, Path, str]
) -> None:
    model, key, ending = signed
    file = model.with_suffix(suffix)
    spoil(file, file.with_name(file.name + ending))
    with pytest.raises(ArtefactError) as refused:
        for each in (model, model.with_suffix(".json")):
            Voucher(key=key).check(each, each.read_bytes())
    assert refused.value.path == file
    assert file.name + ending in refused.value.reason


def test_another_key_does_not_do(signed: tuple[Path, Path, str], tmp_path: Path) -> None:
    model, key, suffix = signed
    (tmp_path / "other").mkdir()
    other = (openssl_key if suffix == ".sig" else minisign_key)(tmp_path / "other")
    assert read_key(key) != read_key(other)
    said = start_refused(model, artefact_public_key=str(other))
    assert model.name in said and "key" in said


@pytest.mark.parametrize("spoil", [_other_bytes, _no_signature, _cut])
def test_a_model_that_is_not_as_signed_does_not_start(
    spoil: Callable[[Path, Path], None], signed: tuple[Path, Path, str]
) -> None:
    model, key, suffix = signed
    manifest = model.with_suffix(".json")
    spoil(manifest, manifest.with_name(manifest.name + suffix))
    said = start_refused(model, artefact_public_key=str(key))
    assert manifest.name in said and "sign" in said


@pytest.mark.skipif(shutil.which("minisign") is None, reason="minisign is not here: apt-get install minisign")
def test_what_minisign_verifies_and_nothing_else_is_verified_here(tmp_path: Path) -> None:
    """A byte of the signature's file changed anywhere: minisign and the service say the same."""
    key, file = minisign_key(tmp_path), tmp_path / "m.onnx"
    file.write_bytes(b"a graph")
    minisign(key, "-t", "of 2026, for the ward")(file)
    signature = tmp_path / "m.onnx.minisig"
    sound = signature.read_bytes()
    first = sound.index(b"\n") + 1
    for at in range(first, len(sound) - 1, 3):
        signature.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        verified = subprocess.run(
            ["minisign", "-V", "-p", str(key), "-m", str(file)], capture_output=True, timeout=60, check=False
        )
        assert verified.returncode != 0
        with pytest.raises(ArtefactError):
            Voucher(key=key).check(file, file.read_bytes())
    signature.write_bytes(sound)
    Voucher(key=key).check(file, file.read_bytes())


def test_a_list_names_both_files(tmp_path: Path) -> None:
    model = write_artefact(tmp_path)
    listed = listing(tmp_path)
    with served(model, artefact_sha256_file=str(listed)) as service:
        service.wait_listening()
    both = listed.read_text()
    listed.write_text("".join(line for line in both.splitlines(keepends=True) if ".json" not in line))
    assert f"micro.json: is not in {listed}" in start_refused(model, artefact_sha256_file=str(listed))
    listed.write_text(both)
    model.with_suffix(".json").write_text(model.with_suffix(".json").read_text() + "\n")
    assert f"micro.json: is not the one in {listed}" in start_refused(model, artefact_sha256_file=str(listed))


def test_required_and_nothing_set_is_a_refusal(artefact: Path) -> None:
    said = start_refused(artefact, artefact_vouched_only="true")
    assert "has nobody who vouches for it" in said


@pytest.mark.parametrize("setting", ["artefact_sha256_file", "artefact_public_key"])
@pytest.mark.parametrize("content", [None, b"", b"\x00\xff\n", b"untrusted comment: x\nRWQ=\n", b"abc  model.onnx\n"])
def test_what_cannot_be_read_vouches_for_nothing(
    setting: str, content: bytes | None, artefact: Path, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    read = read_list if "sha256" in setting else read_key
    with pytest.raises(VoucherError, match=str(tmp_path / "file")):
        read(tmp_path / "file")
    if content is None:
        assert f"{tmp_path / 'file'} cannot be read" in start_refused(artefact, **{setting: str(tmp_path / "file")})


def test_a_key_of_rsa_is_none_that_we_read(tmp_path: Path) -> None:
    with pytest.raises(VoucherError, match="not of ECDSA"):
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
        ended = subprocess.run(
            [str(COMMAND), *command], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode != 0, command
        assert "is not the one in" in ended.stderr + ended.stdout, (command, ended.stderr)


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


KEYS = (
    MinisignKey(b"12345678", bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")),
    EcdsaKey(ec.derive_private_key(7, ec.SECP256R1()).public_key()),
)


@given(st.binary(max_size=400))
def test_no_bytes_are_taken_for_a_signature(noise: bytes) -> None:
    for key in KEYS:
        with pytest.raises(ValueError):
            key.check(b"a graph", noise)
