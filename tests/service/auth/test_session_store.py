"""The store of sessions: what several workers see is what one process would, and a worker that is killed loses none."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from service.auth.code_flow import Pending
from service.auth.identity import Caller, Identity
from service.auth.session_store import MemoryStore, SharedStore
from service.auth.sessions import BrowserSession, SessionTable
from service.config.settings import Settings

FINITE = st.floats(allow_nan=False, allow_infinity=False)
IDENTITIES = st.builds(Identity, kind=st.sampled_from(["key", "named", "token"]), subject=st.none() | st.text())
CALLERS = st.builds(Caller, identity=IDENTITIES, ends_at_s=st.none() | FINITE, rate_per_s=FINITE)
SESSIONS = st.builds(
    BrowserSession, caller=CALLERS, started_s=FINITE, used_s=FINITE, authenticated_s=st.none() | FINITE
)
PENDING = st.builds(Pending, ends_s=FINITE)
PERSON = Caller("m.muster", Identity(kind="key", key="front"), frozenset({"specimens"}), person=True)
SESSION = BrowserSession(PERSON, "key", "csrf", 1.0, 1.0, None)
CALLS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["put", "find", "update", "take"]), st.sampled_from("abcdef")),
    max_size=60,
)
#: Puts records into a store for ever, and says each key once it is there.
WRITER = """
import sys
from itertools import count
from pathlib import Path

from service.auth.session_store import SharedStore

store = SharedStore(Path(sys.argv[1]), str)
for number in count():
    store.put(str(number), "record")
    print(number, flush=True)
"""


@contextmanager
def workers(path: Path, count: int, limit: int = 3) -> Iterator[list[SharedStore[BrowserSession]]]:
    """The stores of several workers."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(SharedStore(path, BrowserSession, limit))) for _ in range(count)]


@given(CALLS)
def test_workers_together_keep_what_one_process_keeps(calls: list[tuple[int, str, str]]) -> None:
    alone = MemoryStore[BrowserSession](limit=3)
    with TemporaryDirectory() as folder, workers(Path(folder) / "store", 3) as shared:
        for number, (worker, call, key) in enumerate(calls):
            more = [replace(SESSION, used_s=float(number))] if call in ("put", "update") else []
            assert getattr(shared[worker], call)(key, *more) == getattr(alone, call)(key, *more)
        assert [shared[0].find(key) for key in "abcdef"] == [alone.find(key) for key in "abcdef"]


@given(SESSIONS, PENDING)
def test_a_record_comes_back_unchanged(session: BrowserSession, pending: Pending) -> None:
    with TemporaryDirectory() as folder:
        with closing(SharedStore(Path(folder) / "sessions", BrowserSession)) as sessions:
            sessions.put("key", session)
            assert sessions.find("key") == session
        with closing(SharedStore(Path(folder) / "sign_ins", Pending)) as sign_ins:
            sign_ins.put("key", pending)
            assert sign_ins.take("key") == pending


def test_of_several_workers_at_once_one_takes_a_record(tmp_path: Path) -> None:
    keys = [str(number) for number in range(100)]
    taken: list[str] = []
    start = threading.Barrier(4)

    def take_all(store: SharedStore[BrowserSession]) -> None:
        for key in keys:
            start.wait(60)
            taken.extend([key] if store.take(key) else [])

    with workers(tmp_path / "store", 4, limit=100) as shared:
        for key in keys:
            shared[0].put(key, SESSION)
        threads = [threading.Thread(target=take_all, args=[store]) for store in shared]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert sorted(taken, key=int) == keys


def test_a_worker_that_is_killed_while_it_writes_loses_no_record(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(50)]
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.readlines()
    with closing(SharedStore(tmp_path / "store", str)) as store:
        assert [line for line in said if store.find(line.strip()) != "record"] == []
        store.put("another", "record")
        assert store.find("another") == "record"


def test_files_are_of_the_user_alone_and_hold_no_cookie(tmp_path: Path) -> None:
    with workers(tmp_path / "store", 1) as [store]:
        value = SessionTable(Settings(), store).start(PERSON, "key", None)
        files = list(tmp_path.iterdir())
        assert [path.stat().st_mode & 0o777 for path in files] == [0o600] * 3
        text = b"".join(path.read_bytes() for path in files)
    assert b"m.muster" in text and value.encode() not in text
