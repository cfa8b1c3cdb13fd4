"""A Prometheus server for tests: scrapes a service, evaluates the repository's rules, and is queried over HTTP.

It also scrapes a target of the test, so a test can wait for the next scrape instead of sleeping.
"""

import math
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import yaml
from databases import free_port

PROMETHEUS = shutil.which("prometheus")
JOB = "marrowlens"
_EVERY = "500ms"
#: Metrics of another program, with names that every program exports.
OTHER = """# TYPE process_start_time_seconds gauge
process_start_time_seconds 1
# TYPE process_open_fds gauge
process_open_fds 9
# TYPE process_max_fds gauge
process_max_fds 10
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 1
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 1
"""
Sample = dict[str, Any]


class Pace:
    """The `/metrics` of another program; it signals each scrape."""

    def __init__(self) -> None:
        self._scraped = threading.Event()
        scraped = self._scraped

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(OTHER.encode())
                scraped.set()

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def wait(self) -> None:
        """Wait for the next scrape."""
        self._scraped.clear()
        assert self._scraped.wait(60), "Prometheus has not scraped for a minute"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Prometheus:
    """A running Prometheus, queried through its HTTP API."""

    def __init__(self, url: str, pace: Pace) -> None:
        self._http = httpx.Client(base_url=f"{url}/api/v1", timeout=60)
        self._pace = pace
        self.began_s = time.time()

    def ask(self, query: str) -> list[Sample]:
        """The current result of a query: its samples without NaN."""
        found = self._answer("query", query=query)["result"]
        return [sample for sample in found if not math.isnan(float(sample["value"][1]))]

    def draw(self, query: str) -> list[Sample]:
        """The lines that a panel would draw for a query since the start, without those that are all NaN.

        A rate needs two scrapes of a series, so an empty result is queried again after the next scrape.
        """
        for _ in range(40):
            if lines := self._drawn(query):
                return lines
            self._pace.wait()
        return []

    def _drawn(self, query: str) -> list[Sample]:
        span = {"start": self.began_s, "end": time.time(), "step": "1s"}
        found = self._answer("query_range", query=query, **span)["result"]
        return [line for line in found if any(not math.isnan(float(value)) for _, value in line["values"])]

    def values(self, selector: str, label: str) -> list[str]:
        """The values of a label, as queried by a dashboard variable."""
        found: list[str] = self._answer(f"label/{label}/values", **{"match[]": selector})
        return found

    def until(self, query: str, holds: Callable[[list[Sample]], Any] = bool) -> list[Sample]:
        """The result of a query once `holds` is true for it; fails after 240 scrapes."""
        for _ in range(240):
            if holds(found := self.ask(query)):
                return found
            self._pace.wait()
        targets = [(each["scrapeUrl"], each["lastError"]) for each in self._answer("targets")["activeTargets"]]
        raise AssertionError(f"after 240 scrapes {query} answers {found}; {targets}")

    def rules(self) -> list[dict[str, Any]]:
        """The state of every rule: `health` and `lastError` show whether it could be evaluated."""
        return [rule for group in self._answer("rules")["groups"] for rule in group["rules"]]

    def close(self) -> None:
        self._http.close()

    def _answer(self, path: str, **asked: Any) -> Any:
        answer = self._http.get(path, params=asked).json()
        assert answer["status"] == "success", f"{asked}: {answer}"
        return answer["data"]


@contextmanager
def scraping(folder: Path, target: str, key: str, *rule_files: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the service at `host:port` with an API key; stopped at the end."""
    assert PROMETHEUS is not None
    pace, port = Pace(), free_port()
    jobs: list[dict[str, Any]] = [
        {"job_name": JOB, "static_configs": [{"targets": [target]}], "authorization": {"credentials": key}},
        {"job_name": "other", "static_configs": [{"targets": [pace.address]}]},
    ]
    config = {
        "global": {"scrape_interval": _EVERY, "scrape_timeout": _EVERY, "evaluation_interval": _EVERY},
        "rule_files": [str(path.resolve()) for path in rule_files],
        "scrape_configs": jobs,
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [PROMETHEUS, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    prometheus = Prometheus(f"http://127.0.0.1:{port}", pace)
    try:
        pace.wait()
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        yield prometheus
    finally:
        process.terminate()
        process.wait(60)
        prometheus.close()
        pace.close()
