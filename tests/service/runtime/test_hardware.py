"""CPU budget, memory and GPUs of the machine, from files in the kernel's formats."""

import os
import stat
from pathlib import Path

import pytest

from service.runtime import cuda
from service.runtime.cuda import Gpu, gpus
from service.runtime.hardware import cpu_budget, inspect_machine, memory_limit, resident_memory


def cgroup(folder: Path, own_cgroup: str, files: dict[str, str]) -> dict[str, Path]:
    (folder / "self_cgroup").write_text(own_cgroup)
    for name, content in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return {"own_cgroup": folder / "self_cgroup", "cgroups": folder / "cgroup"}


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> int:
    """A machine on which this process may run on 16 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    return 16


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
def test_cpu_budget(tmp_path: Path, own_cgroup: str, files: dict[str, str], budget: int) -> None:
    assert cpu_budget(**cgroup(tmp_path, own_cgroup, files)) == budget


@pytest.mark.usefixtures("allowed")
def test_a_machine_without_cgroups_has_its_affinity(tmp_path: Path) -> None:
    assert cpu_budget(own_cgroup=tmp_path / "none", cgroups=tmp_path / "none") == 16


def test_the_cpu_budget_here_is_between_one_and_all() -> None:
    assert 1 <= cpu_budget() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("own_cgroup", "files", "limit"),
    [
        pytest.param("0::/\n", {"memory.max": "2147483648\n"}, 2147483648, id="v2 in a container"),
        pytest.param("0::/\n", {"memory.max": "max\n"}, None, id="v2 without a limit"),
        pytest.param(
            "0::/pod/app\n",
            {"pod/app/memory.max": "max\n", "pod/memory.max": "1024\n"},
            1024,
            id="v2, from around",
        ),
        pytest.param(
            "3:memory:/docker/3f\n", {"memory/docker/3f/memory.limit_in_bytes": "4096\n"}, 4096, id="v1 on the host"
        ),
        pytest.param("3:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None, id="v1, none"),
        pytest.param("", {}, None, id="no cgroups"),
    ],
)
def test_memory_limit(tmp_path: Path, own_cgroup: str, files: dict[str, str], limit: int | None) -> None:
    assert memory_limit(**cgroup(tmp_path, own_cgroup, files)) == limit


def test_resident_memory_is_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tx\nVmPeak:\t 9 kB\nVmRSS:\t  178196 kB\n")
    assert resident_memory(tmp_path / "status") == 178196 * 1024
    assert resident_memory(tmp_path / "missing") is None


def test_here_there_is_something_to_tell() -> None:
    machine = inspect_machine()
    assert machine.cpus >= 1
    assert machine.resident is None or machine.resident > 10_000_000


def driver(folder: Path, says: str, status: int = 0) -> str:
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\ncat <<'END'\n{says}END\nexit {status}\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return str(command)


def test_gpus_are_those_the_driver_shows(tmp_path: Path) -> None:
    command = driver(tmp_path, "NVIDIA L4, 580.65.06, 23034\nNVIDIA A100-SXM4-40GB, 580.65.06, 40960\n")
    assert gpus(command) == [
        Gpu("NVIDIA L4", "580.65.06", 23034),
        Gpu("NVIDIA A100-SXM4-40GB", "580.65.06", 40960),
    ]


@pytest.mark.parametrize("says", ["", "No devices were found\n", "NVIDIA L4, 580.65.06, [N/A]\n"])
def test_a_driver_that_shows_no_gpu(tmp_path: Path, says: str) -> None:
    assert gpus(driver(tmp_path, says)) == []


def test_no_driver_or_a_failing_one_is_no_gpu(tmp_path: Path) -> None:
    assert gpus(str(tmp_path / "nvidia-smi")) == []
    assert gpus(driver(tmp_path, "NVIDIA L4, 580.65.06, 23034\n", status=9)) == []


def test_versions_are_read_from_the_numbers_of_the_libraries() -> None:
    assert cuda.dotted(92400) == "9.24.0"
    assert cuda.dotted(101303) == "10.13.3"


def test_libraries_that_are_not_there_are_none(tmp_path: Path) -> None:
    assert cuda.load("libnvinfer.so.10", tmp_path) is None
    assert cuda.cuda_runtime("") is None
    (tmp_path / "libnvinfer.so.10").write_bytes(b"no library")
    assert cuda.load("libnvinfer.so.10", tmp_path) is None
    assert set(cuda.versions("")) == {"CUDA", "cuDNN", "TensorRT"}
