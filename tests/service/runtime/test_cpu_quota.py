"""The CPU budget in the forms that containers come in: laid out as files, as the kernel shows them."""

import os
from pathlib import Path

import pytest

from service.runtime.cpu_quota import cpu_budget


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> int:
    """A machine on which this process may run on 16 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    return 16


def machine(folder: Path, own_cgroup: str, files: dict[str, str]) -> dict[str, Path]:
    (folder / "self_cgroup").write_text(own_cgroup)
    for name, content in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return {"own_cgroup": folder / "self_cgroup", "cgroups": folder / "cgroup"}


@pytest.mark.parametrize(
    ("own_cgroup", "files", "budget"),
    [
        pytest.param("0::/\n", {"cpu.max": "400000 100000\n"}, 4, id="v2 in a container"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, 16, id="v2 without a quota"),
        pytest.param("0::/\n", {}, 16, id="v2 root, which has no cpu.max"),
        pytest.param("0::/\n", {"cpu.max": "350000 100000\n"}, 3, id="a part of a CPU is no thread"),
        pytest.param("0::/\n", {"cpu.max": "50000 100000\n"}, 1, id="half a CPU is still one thread"),
        pytest.param("0::/\n", {"cpu.max": "6400000 100000\n"}, 16, id="a quota above the affinity"),
        pytest.param(
            "0::/kubepods/pod1/app\n",
            {"kubepods/pod1/app/cpu.max": "max 100000\n", "kubepods/pod1/cpu.max": "200000 100000\n"},
            2,
            id="v2, limited by the cgroup around it",
        ),
        pytest.param(
            "4:cpu,cpuacct:/docker/3f\n3:memory:/docker/3f\n",
            {
                "cpu,cpuacct/docker/3f/cpu.cfs_quota_us": "300000\n",
                "cpu,cpuacct/docker/3f/cpu.cfs_period_us": "100000\n",
            },
            3,
            id="v1 on the host",
        ),
        pytest.param(
            "4:cpuacct,cpu:/docker/3f\n",
            {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "50000\n"},
            5,
            id="v1 in a container, whose own cgroup is the mount",
        ),
        pytest.param(
            "1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16, id="v1, no quota"
        ),
        pytest.param("2:cpuset,cpuacct:/a\n", {"cpuset,cpuacct/a/cpu.max": "100000 100000"}, 16, id="v1, other ones"),
        pytest.param("0::/\n", {"cpu.max": "what is this\n"}, 16, id="unreadable"),
        pytest.param("0::/\n", {"cpu.max": "100000 0\n"}, 16, id="no period"),
        pytest.param("", {"cpu.max": "100000 100000"}, 16, id="no cgroups"),
    ],
)
@pytest.mark.usefixtures("allowed")
def test_budget(tmp_path: Path, own_cgroup: str, files: dict[str, str], budget: int) -> None:
    assert cpu_budget(**machine(tmp_path, own_cgroup, files)) == budget


@pytest.mark.usefixtures("allowed")
def test_a_machine_without_cgroups_has_its_affinity(tmp_path: Path) -> None:
    assert cpu_budget(own_cgroup=tmp_path / "none", cgroups=tmp_path / "none") == 16


def test_here_it_is_between_one_and_all() -> None:
    assert 1 <= cpu_budget() <= (os.cpu_count() or 1)
