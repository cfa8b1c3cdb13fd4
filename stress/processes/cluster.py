"""A Ray cluster of two nodes on loopback and an S3 store, in a separate process: `with cluster(folder) as peer`.

As a program it starts both, prints their addresses, and reads commands from standard input: `kill` ends the second node
by SIGKILL to all its processes; `add` starts a replacement.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.scoring.ray.options import ray_folder

_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
STARTS = 3  # Ray gives its own processes 30 s to start, which on a busy machine is not enough
ROOT = Path(__file__).parents[2]
#: Of the S3 store; it is there from the start.
BUCKET = "cells"
#: Of moto, which takes any.
ACCESS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(slots=True)
class Peer:
    """The running cluster: its addresses, and the environment of processes that join it."""

    process: "subprocess.Popen[str]"
    address: str
    environment: dict[str, str]

    def kill_node(self) -> int:
        """Kill the node's processes; returns their number."""
        return int(self._ask("kill"))

    def add_node(self) -> None:
        self._ask("add")

    def _ask(self, what: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        answer = _answer(self.process)
        if not answer:
            raise RuntimeError("the cluster has ended")
        return answer


@contextmanager
def cluster(folder: Path) -> Iterator[Peer]:
    """Run the cluster for the block. `folder` holds its logs."""
    with ray_folder() as short:
        peer = _started(folder, short)
        try:
            yield peer
        finally:
            _end(peer.process)


def _started(folder: Path, short: Path) -> Peer:
    # Its own token: Ray would create one in the user's home folder.
    own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    own["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # all of it on 127.0.0.1
    # To a running cluster and nowhere else: not to another one of the same person's.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MARROWLENS_"))} | ACCESS | own
    environment |= {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(short)}
    for number in range(STARTS):
        place = folder / str(number)
        place.mkdir()
        with (place / "peer.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "stress.processes.cluster"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )
        said = _answer(process)
        if said:
            addresses = json.loads(said)
            return Peer(process, addresses["ray"], environment | {"AWS_ENDPOINT_URL": addresses["s3"]})
        _end(process)
    raise RuntimeError("no cluster started: " + (place / "peer.log").read_text()[-500:])


def _end(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        pass
    process.stdout.close()
    with suppress(ProcessLookupError):  # what is left of it
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _answer(process: "subprocess.Popen[str]") -> str:
    """The next output line; empty after the end."""
    assert process.stdout is not None
    lines = (line for line in process.stdout if line.startswith("peer: "))
    return next(lines, "").removeprefix("peer: ")


def _say(text: str) -> None:
    sys.stdout.write(f"peer: {text}\n")
    sys.stdout.flush()


def _processes_below(root: int) -> list[int]:
    """A process and all its descendants, parents first."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(line.split()[0]): int(line.split()[1]) for line in found.splitlines()}
    below = [root]
    for pid in below:
        below += [child for child, parent in parents.items() if parent == pid]
    return below


def _kill(node: Any) -> int:
    roots = [info.process.pid for infos in node.all_processes.values() for info in infos]
    pids = [pid for root in roots for pid in _processes_below(root)]
    for pid in pids:
        with suppress(ProcessLookupError):  # ended with its parent
            os.kill(pid, signal.SIGKILL)
    for infos in node.all_processes.values():
        for info in infos:
            info.process.wait()
    return len(pids)


def _node() -> dict[str, Any]:
    """Start a node with one CPU and fixed ports; with ports chosen by its agent a raylet waits half a minute."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in _PORTS]
        ports = {name: one.getsockname()[1] for name, one in zip(_PORTS, taken, strict=True)}
    return ports | {
        "num_cpus": 1,
        "object_store_memory": 80 << 20,
        "node_ip_address": "127.0.0.1",
        "include_dashboard": False,
    }


def main() -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    host, port = store.get_host_and_port()
    os.environ["AWS_ENDPOINT_URL"] = f"http://{host}:{port}"
    boto3.client("s3").create_bucket(Bucket=BUCKET)

    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args=_node() | {"no_monitor": True})
    node = started.add_node(**_node())
    _say(json.dumps({"ray": started.address, "s3": f"http://{host}:{port}"}))
    for line in sys.stdin:
        if line.strip() == "kill":
            _say(str(_kill(node)))
        else:
            node = started.add_node(**_node())
            _say("added")
    started.shutdown()  # type: ignore[no-untyped-call]
    store.stop()


if __name__ == "__main__":
    main()
