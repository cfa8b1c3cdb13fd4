"""Check `laboratory`: sign reports while service, delivery worker, receiver and database are killed.

Afterwards the receiver must have every signed report exactly once by control id, with its specimen's values.
"""

import asyncio
import json
import random
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from stress.clients.pictures import picture
from stress.laboratory import cast, received
from stress.laboratory.cast import Player, Service, ServiceWorker
from stress.laboratory.received import Signed
from stress.laboratory.signers import AMENDED, PATIENCE_S, PICTURES, SigningClients
from stress.processes.process import COMMAND
from stress.results import Result, Shown, Table

CLIENTS = 4


async def laboratory(
    kind: str,
    reports: int,
    kills: int,
    artefact: Path | None,
    shown: Shown,
    *,
    seed: int = 0,
    workers: int = 1,
) -> Result:
    """Run the check on one kind of database: "sqlite" or "postgresql"."""
    shown.total(reports)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        check = _Check(kind, reports, kills, Path(name), artefact, shown, random.Random(seed), workers)
        return await check.run(began_s)


@dataclass(slots=True)
class _Check:
    kind: str
    reports: int
    kills: int
    folder: Path
    artefact: Path | None
    shown: Shown
    drawn: random.Random
    workers: int
    killed: Counter[str] = field(default_factory=Counter)
    players: list[Player] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    async def run(self, began_s: float) -> Result:
        file = self.folder / "received.jsonl"
        try:
            service = await asyncio.to_thread(self._begin, file)
            clients = await self._signing_clients(service)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._kill(clients))
                group.create_task(self._sign_all(clients))
            await self._delivered()
            faults = [*(await self._faults(clients, file)), *self._audit()]
        finally:
            for player in self.players:
                await asyncio.to_thread(player.end)
        return self._result(clients, file, faults, time.monotonic() - began_s)

    def _begin(self, file: Path) -> Service:
        lis = {"lis_hl7_timeout_s": "1", "lis_retry_first_s": "0.05", "lis_retry_most_s": "1"}
        port = cast.free_port()
        receiver = cast.receiver(file, port)
        receiver.start()
        self.players.append(receiver)
        lis |= {"lis_hl7_to": f"127.0.0.1:{port}", "lis_database": f"sqlite:///{self.folder / 'lab.db'}"}
        if self.kind == "postgresql":
            self.folder.chmod(0o755)  # the database server is another user's
            (self.folder / "postgres").mkdir()
            server = cast.database_server(self.folder / "postgres")
            server.start()
            self.players.append(server)
            lis["lis_database"] = server.new_database()
        self.settings = lis
        service = Service(self.folder, self.artefact, {**lis, "workers": str(self.workers)})
        started: list[Player] = [service, cast.worker(lis)]
        started += [ServiceWorker(service)] if self.workers > 1 else []
        for player in started:
            player.start()
            self.players.append(player)
        return service

    async def _signing_clients(self, service: Service) -> SigningClients:
        files = [picture(at, "PNG") for at in range(PICTURES)]
        url = f"http://127.0.0.1:{service.port}"
        async with httpx.AsyncClient() as client:
            answers = [await client.post(f"{url}/classify?maps=none", files={"image": data}) for data in files]
        return SigningClients(url, [answer.json()["prediction"]["code"] for answer in answers], files)

    async def _sign_all(self, clients: SigningClients) -> None:
        numbers = iter(range(1, self.reports + 1))

        async def one() -> None:
            async with httpx.AsyncClient(timeout=20) as client:
                for number in numbers:
                    await clients.begin(number)
                    await clients.whole(client, number)
                    self.shown.step()

        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(one())

    async def _kill(self, clients: SigningClients) -> None:
        """Kill randomly chosen processes, evenly spread over the work, and restart each at once."""
        every = self.reports / self.kills
        for number in range(self.kills):
            # What may be begun lasts for longer than a player is away.
            await clients.reach(round(number * every), round((number + 1) * every) + CLIENTS)
            await asyncio.sleep(self.drawn.random() * 0.1)
            player = self.drawn.choice(self.players)
            await asyncio.to_thread(player.kill)
            await asyncio.to_thread(player.start)
            self.killed[player.name] += 1
        await clients.reach(0, self.reports)

    async def _delivered(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            # Polls, because another process delivers.
            while sum(row["waiting"] for row in self._command("lis", "status", "--json")):  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    def _command(self, *words: str) -> Any:
        command = [str(COMMAND), *words]
        environment = cast.environment(self.settings)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout.startswith("[") else done

    async def _faults(self, clients: SigningClients, file: Path) -> list[str]:
        signed = await self._signed(clients)
        wanted = self.reports + self.reports // AMENDED
        faults = [f"{len(signed)} reports are signed, {wanted} were to be"] if len(signed) != wanted else []
        return [*faults, *received.faults(received.messages(file), signed, clients.codes)]

    async def _signed(self, clients: SigningClients) -> dict[str, Signed]:
        found = {}
        async with httpx.AsyncClient() as client:
            for number in range(1, self.reports + 1):
                page = await client.get(f"{clients.url}/specimens?number=BM-{number:05}")
                [summary] = page.json()["specimens"]
                current = await clients.look(client, summary["id"])
                for each in current["versions"]:
                    answer = await client.get(f"{clients.url}/specimens/{current['id']}/reports/{each['version']}")
                    classes = answer.json()["differential"]["classes"]
                    [message] = each["messages"]
                    shares = {share["code"]: share.get("percent") for share in classes}
                    found[message["control_id"]] = Signed(
                        current["number"], each["version"], each["status"], message["control_id"], shares
                    )
        return found

    def _audit(self) -> list[str]:
        done = self._command("audit", "verify")
        return [] if done.returncode == 0 else [f"audit trail not verified: {done.stderr.strip()}"]

    def _result(self, clients: SigningClients, file: Path, faults: list[str], seconds: float) -> Result:
        arrived = received.messages(file)
        again = sum(len(raws) - 1 for raws in arrived.values())
        rows = [[name, str(count)] for name, count in sorted(self.killed.items())]
        retries = ", ".join(f"{count} × {what}" for what, count in sorted(clients.retries.items())) or "none"
        return Result(
            f"laboratory-{self.kind}",
            f"The laboratory on {self.kind}",
            f"{self.reports} specimens were opened, filled and signed by {CLIENTS} clients, one in {AMENDED} amended "
            f"and signed again, while {self.killed.total()} times one of the processes below was killed by SIGKILL "
            f"and restarted. Reports went by HL7 from two delivery workers to simple-hl7 from npm. {len(arrived)} "
            f"control ids "
            f"arrived, {again} messages were repeated after a kill. Unless a fault is listed, every report arrived "
            f"under one control id with its specimen's values, in version order, and the audit trail verifies. "
            f"Client retries: {retries}.",
            [Table(["killed", "times"], rows)],
            faults,
            seconds,
        )
