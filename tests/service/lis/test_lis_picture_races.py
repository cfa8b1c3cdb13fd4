"""Uploads, erasures and sweeps of one picture at the same time: a picture is stored if and only if a cell needs it."""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from conftest import Draw
from greenlet import getcurrent, greenlet
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lab import classified, manifest, open_request, sign_request, use_cases, user
from serving import client
from sqlalchemy import event

from examples import examples
from model.contract import Manifest
from service.config.lis import LisSettings
from service.errors import Conflict
from service.lis.domain import erasure
from service.lis.picture_store import PictureStore
from service.lis.schemas import WithReason
from service.lis.use_cases import UseCases

#: Rounds over HTTP. Without the protocol of decision 0042 the first round loses all of its pictures.
ROUNDS, PICTURES = 4, 6
OLD_S = 1_000_000_000


def step() -> None:
    """End a step of an actor: any other actor may take the next one."""
    getcurrent().parent.switch()


def interleave(actors: Sequence[Callable[[], None]], order: Sequence[int]) -> None:
    """Run actors step by step, as several processes would, and what is left of each at the end of the order."""
    started = [greenlet(actor) for actor in actors]
    for each in (started[number % len(started)] for number in order):
        if not each.dead:
            each.switch()
    for each in itertools.cycle(started):
        if not each.dead:
            each.switch()
        elif all(other.dead for other in started):
            return


class Race:
    """A signed and an open specimen with the same picture, and who stores and deletes it."""

    def __init__(self, front: UseCases, folder: Path, model: Manifest) -> None:
        self._front, self._store, self._model = front, PictureStore(folder, 30), model
        self._cell = classified("EBO", name=os.urandom(8).hex())  # Hypothesis resets `random` for each example
        self.picture = self._cell.sha256
        self.may_be_gone = False  # moved out by a sweep, and then in no use; an amendment does not restore it
        self._signed, self._open = (front.open(open_request(os.urandom(8).hex()), user("m.muster")).id for _ in "12")
        front.add(self._signed, [self._cell], model, user("scanner"))
        self._store.settle([self._store.stage(self.picture, b"a picture")], set)
        [self.path] = folder.glob("??/*")
        self._sign(self._signed)

    def upload(self) -> None:
        """To the open specimen."""
        staged = self._store.stage(self.picture, b"a picture")
        step()
        with suppress(Conflict):
            self._front.add(self._open, [self._cell], self._model, user("scanner"))
        self._store.settle([staged], self.needed)
        self.may_be_gone = False

    def erase(self) -> None:
        with suppress(Conflict):  # it was amended in the meantime
            self._erase(self._signed)

    def amend(self) -> None:
        with suppress(Conflict):  # it was erased in the meantime
            wanted = WithReason(revision=self._front.get(self._signed).revision, reason="race")
            self._front.amend(self._signed, wanted, user("dr.beispiel"))

    def sign_and_erase(self) -> None:
        """The open specimen, if it has a cell by now."""
        with suppress(Conflict):
            self._sign(self._open)
            step()
            self._erase(self._open)

    def sweep(self) -> None:
        self._store.settle_left(self.needed)
        step()
        self._store.delete_expired(self.in_use, self.needed)

    def needed(self, pictures: Sequence[str]) -> set[str]:
        return self._asked(erasure.pictures_needed, pictures)

    def in_use(self, pictures: Sequence[str]) -> set[str]:
        return self._asked(erasure.pictures_in_use, pictures)

    def is_in(self, ask: Callable[..., set[str]]) -> bool:
        with self._front.database.reading() as session:
            return bool(ask(session, [self.picture]))

    def _asked(self, ask: Callable[..., set[str]], pictures: Sequence[str]) -> set[str]:
        step()
        with self._front.database.reading() as session:
            found = ask(session, pictures)
        if ask is erasure.pictures_in_use:
            self.may_be_gone = not found and not self.path.exists()
        step()
        return found

    def _sign(self, specimen: str) -> None:
        revision = self._front.get(specimen).revision
        self._front.sign(specimen, sign_request(revision, accept_unread=True), user("dr.beispiel"))

    def _erase(self, specimen: str) -> None:
        wanted = WithReason(revision=self._front.get(specimen).revision, reason="race")
        _, pictures = self._front.erase(specimen, wanted, user("m.muster"))
        step()
        self._store.delete(pictures, self.needed)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UseCases]:
    with use_cases(f"sqlite:///{tmp_path_factory.mktemp('lab') / 'lab.db'}") as opened:
        opened.database.engine.dispose()  # hundreds of flushes would take a minute
        event.listen(opened.database.engine, "connect", lambda made, _: made.execute("PRAGMA synchronous=OFF"))
        yield opened


@settings(max_examples=examples(120))
@example(["upload", "erase"], [(0, 1), (1, 9)])  # an erasure in the middle of an upload
@example(["upload", "erase"], [(1, 1), (0, 9)])  # an upload in the middle of an erasure
@example(["upload", "erase", "sign_and_erase"], [(1, 2), (0, 2), (1, 1), (2, 9)])  # two erasures in one upload
@example(["sweep", "amend"], [(0, 3), (1, 1)])  # an amendment in the middle of a sweep
@example(["sweep", "amend"], [(0, 5), (1, 1)])  # an amendment after a sweep's last look
@given(
    st.lists(st.sampled_from(["upload", "erase", "sign_and_erase", "amend", "sweep"]), min_size=2, unique=True),
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 8)), min_size=6, max_size=12),
)
def test_a_picture_is_stored_if_and_only_if_a_cell_needs_it(
    front: UseCases, artefact: Path, who: list[str], bursts: list[tuple[int, int]]
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        race = Race(front, folder, manifest(artefact))
        if "sweep" in who:
            os.utime(race.path, (OLD_S, OLD_S))
        interleave([getattr(race, each) for each in who], [actor for actor, steps in bursts for _ in range(steps)])
        assert list(folder.glob("staging/*")) == []
        is_needed, is_in_use = race.is_in(erasure.pictures_needed), race.is_in(erasure.pictures_in_use)
        assert race.path.exists() <= is_needed
        must_be_there = is_in_use if "sweep" in who else is_needed  # an expired one need not be stored
        assert race.path.exists() >= (must_be_there and not race.may_be_gone)


def opened(http: httpx.Client, number: str) -> str:
    made = http.post("/specimens", json={"number": number, "patient": {"identifier": f"P-{number}"}})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


def done(answer: httpx.Response) -> None:
    assert answer.status_code == 200, answer.text


def test_an_erasure_and_an_upload_of_the_same_pictures_over_http(
    artefact: Path, database_url: str, tmp_path: Path, draw: Draw
) -> None:
    lis = LisSettings(database=database_url, pictures=tmp_path / "pictures")
    pictures = [("images", draw(seed)) for seed in range(PICTURES)]
    signed, reason = {"revision": 2, "accept_unread": True, "accept_below_target": True}, {"reason": "race"}
    with client(artefact, lis=lis) as http, ThreadPoolExecutor(2) as callers:
        http.headers.update({"X-Acting-User": "m.muster"})
        for number in range(ROUNDS):
            one, other = opened(http, f"BM-{number}"), opened(http, f"BM-{number}-again")
            done(http.post(f"/specimens/{one}/cells", files=pictures))
            done(http.post(f"/specimens/{one}/sign", json=signed))
            upload = callers.submit(http.post, f"/specimens/{other}/cells", files=pictures)
            erasure = callers.submit(http.post, f"/specimens/{one}/erase", json=reason | {"revision": 3})
            done(upload.result())
            done(erasure.result())
            for place in range(1, PICTURES + 1):
                done(http.get(f"/specimens/{other}/cells/{place}/picture"))
            # The next round begins without them.
            done(http.post(f"/specimens/{other}/cancel", json=reason | {"revision": 2}))
            done(http.post(f"/specimens/{other}/erase", json=reason | {"revision": 3}))
            assert list((tmp_path / "pictures").rglob("*.*")) == []
