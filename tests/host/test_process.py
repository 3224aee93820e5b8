"""The process of a job: a user without a name or a home has both afterwards, and they go with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SCRIPT = """
import getpass, json, os, pwd, shutil, tempfile
from pathlib import Path
from pix2score.host.process import settle
if os.getuid() == 0:
    os.setgid(54321); os.setuid(54321)
settle()
home = Path.home()
(home / "x").write_text("1")
print(json.dumps({"user": getpass.getuser(), "home": str(home), "mode": home.stat().st_mode & 0o777}))
"""


def settled(**settings: str) -> dict[str, object]:
    clean = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")
    }
    words = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        words, env={**clean, **settings}, capture_output=True, text=True, timeout=60, check=True
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without a name")
def test_a_uid_without_a_name_and_a_home_gets_both_for_as_long_as_the_job_runs() -> None:
    found = settled()
    assert found["user"] == "uid54321"
    assert found["mode"] == 0o700  # nobody else can put settings there
    assert not Path(str(found["home"])).exists()


def test_a_name_and_a_home_that_are_there_stay(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if str(folder) != "/tmp" and folder.owner() == Path("/").owner() and "pytest" in str(folder):
            folder.chmod(0o755)
    found = settled(HOME=str(tmp_path), USER="painter")
    assert (found["user"], found["home"]) == ("painter", str(tmp_path))


INTERRUPTED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "pix2score.catalog.job":
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("words", [["jobs.catalog"], ["jobs", "catalog"]])
def test_an_interrupt_while_a_command_imports_is_one_line(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    command = [sys.executable, "-m", *words, "--help"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (130, -signal.SIGINT)
    assert done.stderr == "interrupted before anything was begun; the same command again is safe\n"
