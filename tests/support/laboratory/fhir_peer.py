"""sekmet, a third-party FHIR R4 server, in its own process, and its stored resources."""

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from service.lis.exchange.fhir.transport import FhirTransport

TOKEN = "a-token-of-the-receiver"


@asynccontextmanager
async def fhir_transport(url: str, token: str | None = TOKEN, timeout_s: float = 30) -> AsyncIterator[FhirTransport]:
    """The service's transport to a FHIR server, closed at the end."""
    opened = FhirTransport(url, token, timeout_s)
    try:
        yield opened
    finally:
        await opened.close()


class Server:
    """The resources of a FHIR server, read without the code under test."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)

    def search(self, kind: str, **query: str) -> list[Any]:
        """All resources of a kind that a search finds, on one page."""
        found = self._client.get(f"{self.url}/{kind}", params={"_count": "1000", **query}).raise_for_status().json()
        resources = [entry["resource"] for entry in found.get("entry", [])]
        assert found["total"] == len(resources)
        return resources

    def of_patient(self, kind: str, number: str, **query: str) -> list[Any]:
        return self.search(kind, **query, **{"patient.identifier": f"urn:oid:1.2.3.4|{number}"})

    def counts(self, number: str) -> Counter[str]:
        """How many resources of each kind speak of a patient, and how many patients have the number."""
        kinds = ("Specimen", "Media", "Observation", "DiagnosticReport")
        found = {kind: len(self.of_patient(kind, number)) for kind in kinds}
        return Counter(found | {"Patient": len(self.search("Patient", identifier=f"urn:oid:1.2.3.4|{number}"))})

    def read(self, path: str) -> Any:
        return self._client.get(f"{self.url}/{path}").raise_for_status().json()

    def create(self, resource: dict[str, Any]) -> Any:
        return self._client.post(f"{self.url}/{resource['resourceType']}", json=resource).raise_for_status().json()

    def close(self) -> None:
        self._client.close()


@contextmanager
def sekmet(folder: Path) -> Iterator[Server]:
    """One that asks for a bearer token, gone at the end."""
    settings = {"port": 0, "server_auth": {"types": ["bearer"], "tokens": [TOKEN]}, "simulator": {"enabled": False}}
    (folder / "settings.yaml").write_text(json.dumps(settings))
    command = [str(Path(sys.executable).with_name("sekmet")), "serve", "--host", "127.0.0.1"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        running = next(line for line in lines if "Uvicorn running on " in line)
        rest = threading.Thread(target=lambda: [None for _ in lines])
        rest.start()
        found = Server(running.split("Uvicorn running on ")[1].split()[0] + "/fhir")
        yield found
        found.close()
        process.terminate()
        process.wait()
        rest.join()
