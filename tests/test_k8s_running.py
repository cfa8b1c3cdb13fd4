"""What the manifests start, started here: each container's command and settings, in the order of a pod's start.

No cluster: the processes are the test's, the database a real PostgreSQL, and the port loopback's.
"""

import os
import subprocess
from pathlib import Path

import httpx
import pytest
from databases import Postgres
from manifests import PENDING_ACCESS_SETTINGS, Container, containers, needs_kubectl, of_kind, serves
from serving import COMMAND, served

pytestmark = needs_kubectl
PREFIX = "MARROWLENS_"
#: Who may call is said by a file that is not here; on loopback nobody need say it.
_NOT_HERE = PENDING_ACCESS_SETTINGS | {"MARROWLENS_KEYS_FILE"}


def environment(container: Container, database: str) -> dict[str, str]:
    """Its variables, without the prefix; what comes of a Secret is this test's."""
    given = {variable["name"]: variable.get("value", database) for variable in container.get("env", [])}
    return {name: value for name, value in given.items() if name not in _NOT_HERE}


def runs(container: Container, database: str, artefact: Path, **instead: str) -> subprocess.CompletedProcess[str]:
    """One container that ends by itself."""
    variables = environment(container, database) | {"MARROWLENS_ARTEFACT": str(artefact)} | instead
    command = [str(COMMAND), *container["args"]]
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120, check=False
    )


def answers_its_probes(container: Container, database: str, artefact: Path) -> None:
    """Start it, and ask what the kubelet and Prometheus would ask."""
    settings = {name.removeprefix(PREFIX).lower(): value for name, value in environment(container, database).items()}
    settings |= {"provider": "cpu"} if "provider" in settings else {}
    with served(artefact, **{name: value for name, value in settings.items() if name != "engine_cache"}) as service:
        service.wait_listening()
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert httpx.get(service.url + container[probe]["httpGet"]["path"]).status_code == 200
        assert httpx.get(f"{service.url}/metrics").status_code == 200


@pytest.mark.parametrize("overlay", ["cpu", "kserve"])
def test_the_service_starts_as_it_is_told_and_answers_its_probes(overlay: str, artefact: Path) -> None:
    (container,) = (found for _, _, found in containers(overlay) if serves(found))
    answers_its_probes(container, "", artefact)


def test_a_laboratory_starts_after_its_job(postgres_server: Postgres, artefact: Path) -> None:
    database = postgres_server.new_database()
    found = {name: container for name, _, container in containers("postgres")}
    job, tables = found["Job marrowlens-migrate: migrate"], found["Deployment marrowlens: tables"]
    early = runs({**tables, "args": [*tables["args"][:-1], "0"]}, database, artefact)
    assert early.returncode == 1, "pods must not start before the job has made the tables"
    for container in (job, tables, job):
        done = runs(container, database, artefact)
        assert (done.returncode, done.stdout) == (0, "the database is up to date\n"), done.stderr
    answers_its_probes(found["Deployment marrowlens: marrowlens"], database, artefact)


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
