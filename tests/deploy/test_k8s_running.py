"""What the manifests start, started here: each container's command and settings, in the order of a pod's start.

No cluster: the processes are the test's, the database a real PostgreSQL, and the port loopback's.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from databases import Postgres
from keys import bearer, entry
from manifests import Container, containers, needs_kubectl, of_kind, serves
from serving import COMMAND, served

pytestmark = needs_kubectl
PREFIX = "MARROWLENS_"
FIRST, SECOND = "mlk_the-first-key-of-this-test", "mlk_the-second-key-of-this-test"


class Mounted:
    """A Secret's folder as the kubelet keeps it: the file is a link through a link, which is swapped in one step."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        (folder / "keys.toml").symlink_to("..data/keys.toml")

    def put(self, *keys: str) -> Path:
        """Bring another content in."""
        self._count += 1
        told = self._folder / f"..{self._count}"
        told.mkdir()
        (told / "keys.toml").write_text("\n".join(entry(key, f"k{n}") for n, key in enumerate(keys)), encoding="utf-8")
        (told / "keys.toml").chmod(0o644)
        (self._folder / "..tmp").symlink_to(told.name)
        (self._folder / "..tmp").replace(self._folder / "..data")
        return self._folder / "keys.toml"


@pytest.fixture
def mounted(tmp_path: Path) -> Mounted:
    folder = tmp_path / "keys"
    folder.mkdir()
    return Mounted(folder)


def environment(container: Container, database: str) -> dict[str, str]:
    """Its variables; what comes of a Secret is this test's."""
    return {variable["name"]: variable.get("value", database) for variable in container.get("env", [])}


def runs(container: Container, database: str, artefact: Path, **instead: str) -> subprocess.CompletedProcess[str]:
    """One container that ends by itself."""
    variables = environment(container, database) | {"MARROWLENS_ARTEFACT": str(artefact)} | instead
    command = [str(COMMAND), *container["args"]]
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120, check=False
    )


@contextmanager
def started(container: Container, database: str, artefact: Path, keys: Path) -> Iterator[str]:
    """Start it on loopback with this file of keys, and ask what the kubelet and Prometheus would ask; its URL."""
    settings = {name.removeprefix(PREFIX).lower(): value for name, value in environment(container, database).items()}
    with served(artefact, **settings | {"keys_file": str(keys)}) as service:
        service.wait_listening()
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert httpx.get(service.url + container[probe]["httpGet"]["path"]).status_code == 200
        assert httpx.get(f"{service.url}/metrics").status_code == 200
        assert httpx.get(f"{service.url}/model").status_code == 401
        yield service.url


def until_told(url: str, answers: tuple[int, int]) -> None:
    """Return once the two keys are answered so; the file is looked at now and then, and every question is answered."""
    with httpx.Client(base_url=url) as client:
        for _ in range(20_000):
            told = tuple(client.get("/model", headers=bearer(key)).status_code for key in (FIRST, SECOND))
            if told == answers:
                return
    raise AssertionError(f"the keys are still answered {told}")


@pytest.mark.parametrize("overlay", ["cpu", "kserve"])
def test_the_service_starts_as_it_is_told_and_answers_its_probes(
    overlay: str, artefact: Path, mounted: Mounted
) -> None:
    (container,) = (found for _, _, found in containers(overlay) if serves(found))
    with started(container, "", artefact, mounted.put(FIRST)) as url:
        assert httpx.get(f"{url}/model", headers=bearer(FIRST)).status_code == 200


def test_a_key_is_rotated_as_the_kubelet_brings_it(artefact: Path, mounted: Mounted) -> None:
    (container,) = (found for _, _, found in containers("cpu") if serves(found))
    with started(container, "", artefact, mounted.put(FIRST)) as url:
        for keys, answers in (((FIRST,), (200, 401)), ((FIRST, SECOND), (200, 200)), ((SECOND,), (401, 200))):
            mounted.put(*keys)
            until_told(url, answers)


def test_without_the_secret_nothing_is_open(artefact: Path, tmp_path: Path) -> None:
    (container,) = (found for _, _, found in containers("cpu") if serves(found))
    instead = {"MARROWLENS_KEYS_FILE": str(tmp_path / "keys.toml"), "MARROWLENS_PORT": "0"}
    refused = runs({**container, "args": ["serve"]}, "", artefact, **instead)
    assert refused.returncode == 2
    assert "keys.toml" in refused.stderr


@pytest.mark.slow
def test_a_laboratory_starts_after_its_job(postgres_server: Postgres, artefact: Path, mounted: Mounted) -> None:
    database = postgres_server.new_database()
    found = {name: container for name, _, container in containers("postgres")}
    job, tables = found["Job marrowlens-migrate: migrate"], found["Deployment marrowlens: tables"]
    early = runs({**tables, "args": [*tables["args"][:-1], "0"]}, database, artefact)
    assert early.returncode == 1, "pods must not start before the job has made the tables"
    for container in (job, tables, job):
        done = runs(container, database, artefact)
        assert (done.returncode, done.stdout) == (0, "the database is up to date\n"), done.stderr
    serving = found["Deployment marrowlens: marrowlens"]
    with started(serving, database, artefact, mounted.put(FIRST)) as url:
        assert httpx.get(f"{url}/specimens", headers=bearer(FIRST)).json()["specimens"] == []


def test_engines_are_warmed_by_the_command_that_is_named(artefact: Path) -> None:
    # On the CPU: there is no GPU here, and TensorRT refuses without one.
    (warm,) = (container for _, _, container in containers("gpu") if container["name"] == "warm")
    assert runs(warm, "", artefact).returncode == 2
    done = runs(warm, "", artefact, MARROWLENS_PROVIDER="cpu")
    assert done.returncode == 0, done.stderr
    assert "batch of 16: " in done.stdout


def test_the_examples_laboratory_may_start() -> None:
    (laboratory,) = (d for d in of_kind("hospital", "ConfigMap") if d["metadata"]["name"].startswith("marrowlens-lab"))
    (container,) = (found for _, _, found in containers("hospital") if serves(found))
    assert container["envFrom"] == [{"configMapRef": {"name": laboratory["metadata"]["name"], "optional": True}}]
    done = subprocess.run(
        [str(COMMAND), "lis", "codes"], env={**os.environ, **laboratory["data"]}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr  # a name that is no setting is refused by every command
    (orders,) = (d for d in of_kind("hospital", "Service") if d["metadata"]["name"] == "marrowlens-orders")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    listened = int(laboratory["data"]["MARROWLENS_LIS_HL7_LISTEN"].rpartition(":")[2])
    assert [ports[exposed["targetPort"]] for exposed in orders["spec"]["ports"]] == [listened]


def test_the_examples_laboratory_asks_senders_for_certificates() -> None:
    (laboratory,) = (d for d in of_kind("hospital", "ConfigMap") if d["metadata"]["name"].startswith("marrowlens-lab"))
    (spec, container) = next((spec, found) for _, spec, found in containers("hospital") if serves(found))
    assert "MARROWLENS_LIS_HL7_ALLOW_ANONYMOUS" not in laboratory["data"]
    (mounted,) = (each for each in container["volumeMounts"] if each["name"] == "mllp")
    (volume,) = (each for each in spec["volumes"] if each["name"] == "mllp")
    assert volume["secret"] == {"secretName": "marrowlens-mllp", "defaultMode": 0o440}
    for name, file in (("TLS_CERT", "tls.crt"), ("TLS_KEY", "tls.key"), ("TLS_CA", "ca.crt"), ("LISTEN_CA", "ca.crt")):
        assert laboratory["data"][f"MARROWLENS_LIS_HL7_{name}"] == f"{mounted['mountPath']}/{file}"
