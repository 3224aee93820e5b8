"""How many cores a process may use: affinity and every quota above it, in both kinds of control groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pix2score.host import cores
from pix2score.host.cores import cpu_quota, limit_library_threads, num_cores, threads_under_quota


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 cores whose control groups lie below the folder: ``unified`` and ``cpu``; this process
    is in pods/one."""
    monkeypatch.setattr(cores, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(cores, "_UNIFIED_ROOTS", (tmp_path / "unified",))
    monkeypatch.setattr(cores, "_CPU_ROOTS", (tmp_path / "cpu",))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "own").write_text("4:memory:/elsewhere\n3:cpu,cpuacct:/pods/one\n0::/pods/one\n")
    return tmp_path


def grant(groups: Path, path: str, quota: int | str, period: int = 100_000) -> None:
    folder = groups / path
    folder.mkdir(parents=True, exist_ok=True)
    if path.startswith("unified"):
        (folder / "cpu.max").write_text(f"{quota} {period}\n")
    else:
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.mark.parametrize("kind", ["unified", "cpu"])
@pytest.mark.parametrize("place", ["pods/one", "pods", ""])
def test_a_quota_of_the_own_group_or_one_above_it_counts(groups: Path, kind: str, place: str) -> None:
    grant(groups, f"{kind}/{place}", 300_000)
    assert (cpu_quota(), num_cores()) == (3.0, 3)


def test_the_smallest_quota_counts_in_whole_cores_and_at_least_one(groups: Path) -> None:
    grant(groups, "unified", 600_000)
    grant(groups, "unified/pods", 250_000)
    assert num_cores() == 2
    grant(groups, "unified/pods/one", 25_000, 50_000)
    assert (cpu_quota(), num_cores()) == (0.5, 1)


@pytest.mark.parametrize("quota", ["max", "-1", "0", "what"])
@pytest.mark.parametrize("kind", ["unified", "cpu"])
def test_without_a_limit_the_affinity_counts(groups: Path, kind: str, quota: str) -> None:
    grant(groups, kind, quota)
    assert (cpu_quota(), num_cores(), threads_under_quota()) == (None, 8, None)


def test_a_quota_above_the_affinity_changes_nothing(groups: Path) -> None:
    grant(groups, "cpu", 6_400_000)
    assert (num_cores(), threads_under_quota()) == (8, None)


def test_a_group_outside_of_what_is_seen_is_looked_for_at_the_root_alone(groups: Path) -> None:
    (groups / "own").write_text("0::/../neighbour\n")
    grant(groups, "unified", 400_000)
    grant(groups, "unified/../neighbour", 100_000)
    assert num_cores() == 4


def test_libraries_are_told_of_a_quota_and_what_the_user_set_stays(
    groups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    limit_library_threads()
    assert "OMP_NUM_THREADS" not in os.environ
    grant(groups, "unified", 300_000)
    limit_library_threads()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("3", "7")


def test_it_counts_on_this_machine_as_ray_does_or_less() -> None:
    script = "from pix2score.host.cores import num_cores; print(num_cores())"
    found = int(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    )
    assert 1 <= found <= len(os.sched_getaffinity(0))
