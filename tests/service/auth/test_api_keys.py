"""API keys: the commands new, list and revoke, hot reload in a running service, and rate limits."""

import os
import stat
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keys import bearer, entry, keys_file
from serving import served
from typer.testing import CliRunner

from service.auth.api_keys import KEY_PREFIX, KeyRing, KeysFileError, new_key, read_keys
from service.auth.rate_limit import RateLimiter
from service.cli.main import app as command_line


def run(*words: str, **environment: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(command_line, ["keys", *words], env=environment)
    return done.exit_code, done.stdout, done.stderr


def made(path: Path, name: str, *words: str) -> str:
    code, key, said = run("new", name, *words, "--file", str(path))
    assert code == 0, said
    return key.strip()


def test_a_key_is_shown_once_and_the_file_holds_its_hash_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    key = made(path, "scanner-1", "--scope", "classify", "--scope", "specimens", "--expires", "2030-01-31")
    assert key.startswith(KEY_PREFIX) and len(key) >= 47
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    [found] = read_keys(path)
    assert (found.name, found.scopes) == ("scanner-1", {"classify", "specimens"})
    assert found.expires is not None and found.expires.isoformat() == "2030-01-31T00:00:00+00:00"
    code, listing, _ = run("list", "--file", str(path), COLUMNS="200")
    assert (code, "scanner-1" in listing, found.id in listing, key in listing) == (0, True, True, False)


def test_a_time_is_in_the_zone_that_it_says(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    made(path, "a", "--scope", "classify", "--expires", "2090-12-31T00:00:00+05:00")
    [found] = read_keys(path)
    assert found.expires is not None and found.expires.isoformat() == "2090-12-30T19:00:00+00:00"


def test_what_a_person_wrote_into_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("# the scanner in room 2\n" + entry("mlk_a", "a", ["classify"]))
    os.chmod(path, 0o640)
    made(path, "b", "--scope", "classify", "--acts-for-others", "--rate-per-s", "5", "--burst", "9")
    assert path.read_text().startswith("# the scanner in room 2\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    [_, b] = read_keys(path)
    assert (b.acts_for_others, b.rate_per_s, b.burst) == (True, 5, 9)


def test_keys_are_revoked_by_name_or_by_id(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    for name in ("a", "a", "b", "c"):
        made(path, name, "--scope", "classify")
    first, second, *_ = read_keys(path)
    assert run("revoke", first.id, "b", "--file", str(path))[:2] == (0, "2 revoked, 2 left\n")
    assert [each.id for each in read_keys(path)] == [second.id, read_keys(path)[1].id]
    code, _, said = run("revoke", "nobody", "--file", str(path))
    assert (code, "has no key nobody" in said) == (2, True)
    run("revoke", "a", "c", "--file", str(path))
    assert read_keys(path) == ()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("new", "a", "--scope", "everything"), "everything"),
        (("new", "a"), "--scope"),
        (("new", "a b", "--scope", "classify"), "name:"),
        (("list",), "No such file"),
        (("new", "a", "--scope", "classify", "--expires", "2020-01-01"), "is in the past"),
    ],
)
def test_a_command_that_cannot_says_why(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    code, _, error = run(*words, "--file", str(tmp_path / "keys.toml"), COLUMNS="200")
    assert (code, said in error) == (2, True), error
    assert not (tmp_path / "keys.toml").exists()
    code, _, error = run("list", MARROWLENS_KEYS_FILE="")
    assert (code, "MARROWLENS_KEYS_FILE" in error) == (2, True)


def test_a_running_service_takes_up_new_keys_and_drops_revoked_ones(artefact: Path, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    first = made(path, "scanner", "--scope", "classify")
    with served(artefact, keys_file=str(path), metrics_open="true") as service:
        service.wait_listening()
        with httpx.Client(base_url=service.url, timeout=30) as http:

            def until(key: str, status: int) -> None:
                for _ in range(100_000):
                    if http.get("/model", headers=bearer(key)).status_code == status:
                        return
                raise AssertionError(f"never {status}")

            until(first, 200)
            second = made(path, "scanner", "--scope", "classify")
            until(second, 200)
            assert http.get("/model", headers=bearer(first)).status_code == 200  # both, while one replaces the other
            run("revoke", read_keys(path)[0].id, "--file", str(path))
            until(first, 401)
            assert http.get("/model", headers=bearer(second)).status_code == 200
            path.write_text("[[key]]\nname = ")
            until_metric(http, second, "marrowlens_keys_file_valid 0.0")
            assert http.get("/model", headers=bearer(second)).status_code == 200  # the keys stay as they were
        service.wait_said("keeping the current keys")
        assert not any(second in line or first in line for line in service.lines)


def until_metric(http: httpx.Client, key: str, line: str) -> None:
    for _ in range(100_000):
        http.get("/model", headers=bearer(key))
        if line in http.get("/metrics").text:
            return
    raise AssertionError(f"{line} never came")


def test_a_file_behind_a_link_that_is_turned_is_read_anew(tmp_path: Path) -> None:
    """A symbolic link that is switched to another folder, as Kubernetes updates a Secret."""
    refused: list[KeysFileError] = []
    for folder, key in (("one", "mlk_a"), ("two", "mlk_b")):
        (tmp_path / folder).mkdir()
        keys_file(tmp_path / folder, entry(key, folder, ["classify"]))
    link = tmp_path / "data"
    link.symlink_to("one")
    ring = KeyRing(link / "keys.toml", refused.append)
    assert ring.find("mlk_a") is not None and ring.find("mlk_b") is None
    beside = tmp_path / "beside"
    beside.symlink_to("two")
    beside.rename(link)
    ring.refresh()
    assert ring.find("mlk_a") is None and ring.find("mlk_b") is not None
    link.unlink()
    ring.refresh()
    assert ring.find("mlk_b") is not None and len(refused) == 1 and not ring.valid


def test_no_two_keys_are_alike() -> None:
    assert len({new_key() for _ in range(1000)}) == 1000


@given(
    st.floats(0.01, 1000), st.integers(1, 50), st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=100)
)
def test_no_bucket_gives_more_than_its_rate_and_burst(rate_per_s: float, burst: int, pauses_s: list[float]) -> None:
    now = [0.0]
    buckets, granted = RateLimiter(lambda: now[0]), 0
    for pause_s in pauses_s:
        now[0] += pause_s
        wait_s = buckets.take("a", rate_per_s, burst)
        granted += wait_s == 0
        assert 0 <= wait_s <= 1 / rate_per_s
    assert granted <= burst + rate_per_s * sum(pauses_s) + 1e-6
    now[0] += buckets.take("a", rate_per_s, burst) + 1e-6
    assert buckets.take("b", rate_per_s, burst) == 0.0


def test_whoever_waits_as_long_as_he_is_told_is_let_in() -> None:
    now = [0.0]
    buckets = RateLimiter(lambda: now[0])
    assert buckets.take("a", 4, 1) == 0
    wait_s = buckets.take("a", 4, 1)
    assert wait_s == 0.25
    now[0] += wait_s
    assert buckets.take("a", 4, 1) == 0


def test_callers_that_are_gone_take_no_memory() -> None:
    now = [0.0]
    buckets = RateLimiter(lambda: now[0])
    for n in range(50_000):
        now[0] += 1
        buckets.take(str(n), 1, 1)
    assert len(buckets._buckets) <= 10_000
