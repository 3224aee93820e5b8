"""How many CPU cores this process may use: its affinity, and the quota of the container it runs in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_OWN_CGROUPS = Path("/proc/self/cgroup")
_UNIFIED_ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
_CPU_ROOTS = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/cpu,cpuacct"))
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def num_cores() -> int:
    """Cores that this process may keep busy, at least 1."""
    allowed, quota = len(os.sched_getaffinity(0)), cpu_quota()
    return (
        allowed if quota is None else max(1, min(allowed, int(quota)))
    )  # in whole cores, as Ray counts them


def threads_under_quota() -> int | None:
    """Threads for a library that counts the machine's cores by itself; None where its own count is right."""
    cores = num_cores()
    return cores if cores < len(os.sched_getaffinity(0)) else None


def limit_library_threads() -> None:
    """Under a quota numerical libraries that are loaded from now on use as many threads as it has cores; what
    the user set stays."""
    threads = threads_under_quota()
    for name in _THREAD_SETTINGS if threads else ():
        os.environ.setdefault(name, str(threads))


def cpu_quota() -> float | None:
    """Cores' worth of time that the control groups of this process grant (``docker --cpus``, a Kubernetes
    limit); None without a limit."""
    own = _own_groups()
    unified = [
        _unified_limit(folder) for root in _UNIFIED_ROOTS for folder in _upwards(root, own.get("", "/"))
    ]
    older = [_older_limit(folder) for root in _CPU_ROOTS for folder in _upwards(root, own.get("cpu", "/"))]
    return min((limit for limit in (*unified, *older) if limit is not None), default=None)


def _own_groups() -> dict[str, str]:
    """Controller -> path of this process's group; the key of cgroup v2 is empty."""
    groups: dict[str, str] = {}
    for line in _text(_OWN_CGROUPS).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        groups |= dict.fromkeys(controllers.split(","), path)
    return groups


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """The group's folder and those above it, up to ``root``; a container may see its own group as the root
    and none of the path."""
    below = PurePosixPath(path.lstrip("/"))
    if ".." not in below.parts:
        yield from (root / part for part in (below, *below.parents) if str(part) != ".")
    yield root


def _unified_limit(folder: Path) -> float | None:
    return _cores(*(_text(folder / "cpu.max").split() or ("max",)))


def _older_limit(folder: Path) -> float | None:
    return _cores(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))


def _cores(quota_us: str, period_us: str = "", *_: str) -> float | None:
    try:
        quota, period = float(quota_us), float(period_us)
    except ValueError:  # "max", or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
