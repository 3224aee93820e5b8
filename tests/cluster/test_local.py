"""A Ray of this machine alone: which processes it starts, and work done while it does."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pix2score.cluster.local import BackgroundCall
from tests.support.chain import Chain

pytestmark = pytest.mark.starts_ray

SCRIPT = """
import contextlib, json, os
from pathlib import Path
from pix2score.cluster.session import session
class Same:
    def __call__(self, batch):
        return batch
with session(min_slots=3):
    import ray
    cpus = ray.cluster_resources()["CPU"]
    answer = ray.get(ray.remote(lambda: 42).remote())
    rows = ray.data.range(10).map_batches(Same, concurrency=1).take_all()
    session_dir = ray._private.worker._global_node.get_session_dir_path()
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            parent = int(path.with_name("stat").read_text().rpartition(")")[2].split()[1])
            found[int(path.parent.name)] = parent, path.read_text().replace(chr(0), " ")
    raylets = [
        pid for pid, (_, line) in found.items()
        if session_dir in line and "raylet/raylet" in line.split("--")[0]
    ]
    titles = [line for parent, line in found.values() if parent in raylets and line.startswith("ray::")]
    lines = [line for _, line in found.values() if session_dir in line]
    print(json.dumps({"cpus": cpus, "answer": answer, "rows": len(rows), "lines": lines, "titles": titles}))
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_local_ray_starts_without_what_one_job_has_no_use_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=100
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["cpus"], found["answer"]) == (max(3, found["cpus"]), 42)
    assert any("raylet/raylet" in line for line in found["lines"])
    for daemon in (
        "dashboard/dashboard.py",
        "log_monitor.py",
        "autoscaler/_private/monitor.py",
        "v2/monitor.py",
    ):
        assert not [line for line in found["lines"] if line.split("--")[0].rstrip().endswith(daemon)], daemon
    assert found["rows"] == 10
    assert found["titles"]
    assert not [
        title for title in found["titles"] if "Stats" in title or "Autoscal" in title or "Tracker" in title
    ]
    workers = [title.strip() for title in found["titles"] if "Agent" not in title]
    assert len(workers) <= 2, workers  # of the task and of the actor
    assert done.stderr.count("\n") <= 1, done.stderr


ENVIRONMENT = """
import contextlib, json, os
from pathlib import Path
from pix2score.cluster.session import session
def agents():
    lines = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            parent = int(path.with_name("stat").read_text().rpartition(")")[2].split()[1])
            lines[int(path.parent.name)] = parent, path.read_text().replace(chr(0), " ")
    raylets = [p for p, (_, it) in lines.items() if "raylet/raylet" in it.split("--")[0] and place in it]
    return [line for parent, line in lines.values() if parent in raylets and line.startswith("ray::")]
with session():
    import ray
    place = ray._private.worker._global_node.get_session_dir_path()
    told = ray.remote(lambda: os.environ.get("PIX2SCORE_TOLD"))
    plain, before = ray.get(told.remote()), agents()
    environment = {"env_vars": {"PIX2SCORE_TOLD": "something"}}
    with_one = ray.get(told.options(runtime_env=environment).remote(), timeout=60)
    found = {"before": before, "after": agents(), "told": [plain, with_one], "place": place}
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_agents_of_a_local_ray_start_when_they_are_asked_and_end_with_it() -> None:
    words = [sys.executable, "-c", ENVIRONMENT]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=100)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["told"] == [None, "something"]
    assert not [title for title in found["before"] if "Agent" in title]
    assert [title.strip() for title in found["after"] if "Agent" in title] == ["ray::RuntimeEnvAgent"]
    assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if found["place"] in text_of(path)]


WARNS = """
import logging, time
from pix2score.cluster.session import session
from pix2score.cluster.local import BackgroundCall
logging.basicConfig(format="%(message)s")
def work():
    for number in range(1000):
        logging.warning("warning %d", number)
        time.sleep(0.02)
ahead = BackgroundCall(work)
with session(ahead=ahead):
    print("started")
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_warning_while_ray_starts_arrives_and_nothing_is_written_to_the_home(tmp_path: Path) -> None:
    settings = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    words = [sys.executable, "-c", WARNS]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env={**settings, "HOME": str(tmp_path)},
    )
    lines = [
        line for line in done.stderr.splitlines() if "Set ray log level" not in line
    ]  # Ray's own, past every setting
    assert lines == [f"warning {number}" for number in range(len(lines))]
    assert len(lines) > 20
    assert list(tmp_path.iterdir()) == []


TOLD = """
import dataclasses, os, signal, threading, time, sys
from pix2score.cluster.session import session
from pix2score.cli.main import main

@dataclasses.dataclass(frozen=True)
class Config:
    after_s: float

def job(config):
    def tell():
        time.sleep(config.after_s)
        os.kill(os.getpid(), signal.SIGTERM)
    if config.after_s >= 0:
        threading.Thread(target=tell, daemon=True).start()
    with session():
        import ray
        print(ray._private.worker._global_node.get_session_dir_path(), file=sys.stderr, flush=True)
        if config.after_s < 0:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGTERM)
                ray.get(ray.remote(time.sleep).remote(30))

main("job", Config, job, "A job.")
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "after_s", [0.5, *(pytest.param(other, marks=pytest.mark.slow) for other in (-1, 1.5, 2.5))]
)
def test_told_to_end_with_a_ray_or_while_it_starts_a_job_does_so(tmp_path: Path, after_s: float) -> None:
    words = [sys.executable, "-c", TOLD, f"--after-s={after_s}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), done.stderr  # 0: Ray was faster
    lines = done.stderr.splitlines()
    if done.returncode:
        assert lines[-1] == "jobs.job: interrupted; the same command again is safe"
        assert json.loads(done.stdout.splitlines()[-1])["exit_code"] == 1
    for folder in (line for line in lines if line.startswith("/")):
        assert not [path for path in Path("/proc").glob("[0-9]*/cmdline") if folder in text_of(path)]


def text_of(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


def test_work_ahead_is_done_in_a_thread_or_when_it_is_asked_for() -> None:
    begun = BackgroundCall(threading.get_ident)
    begun.start()
    assert begun.result() != threading.get_ident()
    assert BackgroundCall(threading.get_ident).result() == threading.get_ident()


@pytest.mark.parametrize("is_started", [True, False])
def test_an_error_ahead_comes_out_where_the_result_is_asked_for(is_started: bool) -> None:
    ahead = BackgroundCall(lambda: 1 // 0)
    if is_started:
        ahead.start()
    with pytest.raises(ZeroDivisionError):
        ahead.result()


LARGE = """
import json, sys
from pix2score.score import job, run
from pix2score.score.config import ScoreConfig
run.SMALL_BYTES = int(sys.argv[4])
print(json.dumps(job.score(ScoreConfig(catalog=sys.argv[1], model=sys.argv[2], out=sys.argv[3]))))
"""


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("small_bytes", [0, 2**30])
def test_a_plan_is_made_beside_the_start_or_by_a_task_of_a_ray_of_its_own(
    chain: Chain, tmp_path: Path, small_bytes: int
) -> None:
    words = [
        sys.executable,
        "-c",
        LARGE,
        chain.catalog,
        chain.model,
        str(tmp_path / "scores"),
        str(small_bytes),
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["scored"], summary["failed"]) == (chain.scored["scored"], chain.scored["failed"])
