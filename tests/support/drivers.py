"""Jobs as processes of their own on a cluster of their own, to be killed; and what their processes are."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from pix2score.storage.parquet import parquet_bytes
from tests.conftest import BUCKET, free_port
from tests.support.nodes import environment, start_node
from tests.support.paths import ROOT

NUM_CPUS = 4
PART_ROWS = 20
BATCH_SIZE = 16


@dataclass
class Job:
    """A running ``python -m jobs.…``."""

    process: subprocess.Popen[bytes]
    folder: Path
    started: float = field(default_factory=time.monotonic)

    @property
    def log(self) -> str:
        """All that it wrote to standard error."""
        return (self.folder / "stderr").read_text()

    @property
    def summary(self) -> dict[str, Any]:
        """The last line of its standard output."""
        lines = (self.folder / "stdout").read_text().splitlines()
        assert lines, f"no summary line; standard error ends {self.log[-3000:]}"
        loaded: dict[str, Any] = json.loads(lines[-1])
        return loaded

    def wait(self, timeout_s: float = 150) -> int:
        """Its exit code; one that hangs is killed and fails the test."""
        try:
            return self.process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"the job did not end in {timeout_s} s; standard error ends {self.log[-3000:]}"
            ) from None

    def done(self, timeout_s: float = 150) -> dict[str, Any]:
        """Its summary, after exit code 0."""
        assert self.wait(timeout_s) == 0, self.log[-4000:]
        return self.summary

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(timeout=30)

    def until(self, happened: Callable[[], Any], timeout_s: float = 100) -> Any:
        """What ``happened`` returned, as soon as it is true. The job must still run by then."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if found := happened():
                return found
            assert self.process.poll() is None, (
                f"ended with {self.process.returncode} before it happened: {self.log[-3000:]}"
            )
            time.sleep(0.01)
        self.kill()
        raise AssertionError(f"did not happen in {timeout_s} s: {self.log[-3000:]}")


@dataclass(frozen=True)
class Ray:
    """A cluster for tests that break it."""

    address: str
    root_pid: int
    settings: Mapping[str, str]
    temp: str

    def start(self, job: str, *words: str, **settings: str) -> Job:
        """``python -m jobs.<job>`` as a driver of this cluster."""
        folder = Path(tempfile.mkdtemp(dir=self.temp, prefix="job-"))
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", f"jobs.{job}", *words],
                stdout=out,
                stderr=err,
                cwd=ROOT,
                env={**environment(), **self.settings, "RAY_ADDRESS": self.address, **settings},
            )
        return Job(process, folder)

    def processes(self, *words: str) -> list[int]:
        """Pids of this cluster's processes whose command line or title holds one of ``words``."""
        return [pid for pid in descendants(self.root_pid) if any(word in command_line(pid) for word in words)]


@contextlib.contextmanager
def ray_cluster(settings: Mapping[str, str]) -> Iterator[Ray]:
    """A head of ``NUM_CPUS`` with these environment variables; every process of it ends with the block."""
    with tempfile.TemporaryDirectory(
        prefix="f", dir="/tmp", ignore_cleanup_errors=True
    ) as temp:  # sockets need a short path
        port = free_port()
        head = (
            "--head",
            f"--num-cpus={NUM_CPUS}",
            f"--port={port}",
            "--include-dashboard=false",
            f"--temp-dir={temp}",
        )
        with started_node(*head, settings=settings) as process:
            await_file(Path(temp), "sockets/raylet")
            yield Ray(f"127.0.0.1:{port}", process.pid, settings, temp)


@contextlib.contextmanager
def started_node(*words: str, settings: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """``ray start …`` until the block ends."""
    process = start_node(*words, **settings)
    try:
        yield process
    finally:
        for pid in [*descendants(process.pid), process.pid]:  # at once: asked nicely, Ray takes half a minute
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(timeout=30)


def await_file(folder: Path, ending: str, timeout_s: float = 90) -> None:
    """A path below ``folder`` that ends so exists."""
    deadline = time.monotonic() + timeout_s
    while not any(str(path).endswith(ending) for path in folder.rglob("*")):
        assert time.monotonic() < deadline, f"no {ending} in {timeout_s} s"
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """Every process below ``pid``, itself without."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, pending = [], [pid]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def command_line(pid: int) -> str:
    """Words of a process, or the title that it gave itself; empty if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def picture(number: int, size: int = 12) -> bytes:
    """A PNG of noise, another one for each number."""
    out = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def upload_pictures(s3: Any, prefix: str, contents: Mapping[str, bytes]) -> None:
    """Each as an object ``prefix/name``."""
    for name, content in contents.items():
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=content)


def upload_catalog(
    s3: Any, prefix: str, rows: Sequence[tuple[int, str, str]], name: str = "catalog.parquet"
) -> str:
    """Rows of (id, uri, etag) as the one catalog file below ``prefix``; the place of the catalog comes
    back."""
    ids, uris, etags = zip(*rows, strict=True)
    columns = {
        "illust_id": ids,
        "uri": uris,
        "etag": etags,
        "bookmarks": [i % 97 for i in ids],
        "artist_id": ids,
    }
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/").get("Contents", ())
    old = [entry["Key"] for entry in listed if entry["Key"].endswith(".parquet")]
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=parquet_bytes(pa.table(columns)))
    for key in old:
        if key != f"{prefix}/{name}":
            s3.delete_object(Bucket=BUCKET, Key=key)
    return f"s3://{BUCKET}/{prefix}"
