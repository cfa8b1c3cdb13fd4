"""labmcp-astm-lis, a third-party ASTM receiver, in its own process."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Runs labmcp-astm-lis. For each input line it prints its messages with their results, and its link-layer counters.
PEER = """
import dataclasses, json, sys
from labmcp_astm_lis.driver import ASTMReceiver, ListenTransport, ResultStore
store = ResultStore(redacted=False)
receiver = ASTMReceiver(
    lambda: ListenTransport("127.0.0.1", 0), mode="listen", where="", store=store, redact=False, poll_s=0.01
)
print(receiver.link.port, flush=True)
for _ in sys.stdin:
    messages, _ = store.messages()
    state = {"messages": [dataclasses.asdict(each) for each in messages]}
    print(json.dumps(state | {"link": dataclasses.asdict(receiver.protocol.stats)}), flush=True)
receiver.close()
"""


class AstmReceiver:
    """An ASTM receiver in its own process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.port = int(self._line())

    def told(self) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@contextmanager
def astm_receiver() -> Iterator[AstmReceiver]:
    """One that is ready, gone at the end."""
    command = [sys.executable, "-c", PEER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield AstmReceiver(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
