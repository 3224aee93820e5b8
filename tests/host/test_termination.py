"""SIGTERM: one line, a line of JSON and exit 1, whatever the job was doing; told again, it still tidies
up."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PRELUDE = """
import contextlib, dataclasses, os, signal, sys, time
from pix2score.host import termination
from pix2score.cli.summary import recorded
from pix2score.cli.main import main
from pix2score.storage.folder import Folder

@dataclasses.dataclass(frozen=True)
class Config:
    out: str

def told(times=1):
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
"""


def end_of(body: str, out: Path) -> tuple[int, list[str], dict[str, object]]:
    """Exit code, lines of standard error and the line of JSON of a job with this body."""
    indented = "\n".join(f"    {line}" for line in body.strip().splitlines())
    script = f'{PRELUDE}\ndef job(config):\n{indented}\nmain("job", Config, job, "A job.")\n'
    words = [sys.executable, "-c", script, "--out", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr.splitlines(), json.loads(done.stdout.splitlines()[-1])


INTERRUPTED = ["jobs.job: interrupted; the same command again is safe"]


@pytest.mark.parametrize(
    "body",
    [
        "told()\ntime.sleep(20)",
        "try:\n    told()\nexcept Exception:\n    time.sleep(20)",
        "try:\n    told()\nfinally:\n    time.sleep(0.1)",
    ],
)
def test_a_job_that_is_told_to_end_says_so_and_exits_1(tmp_path: Path, body: str) -> None:
    code, lines, report = end_of(body, tmp_path)
    assert (code, lines) == (1, INTERRUPTED)
    assert (report["error"], report["message"], report["exit_code"]) == (
        "Terminated",
        "told to end by SIGTERM",
        1,
    )


def test_what_the_run_had_to_tell_is_kept(tmp_path: Path) -> None:
    body = "with recorded(Folder(config.out), 'summary.json', {'job': 'job', 'run': 'r'}) as summary:\n"
    body += "    summary['planned'] = 3\n    told()\n    time.sleep(20)"
    code, _, report = end_of(body, tmp_path)
    assert (code, report["run"], report["planned"]) == (1, "r", 3)
    assert json.loads((tmp_path / "summary.json").read_text())["planned"] == 3


def test_told_again_and_again_it_still_writes_its_account(tmp_path: Path) -> None:
    body = """
class Slow(Folder):
    def publish(self, *args, **kwargs):
        told(5)
        return super().publish(*args, **kwargs)
with recorded(Slow(config.out), 'summary.json', {'job': 'job'}) as summary:
    told()
    time.sleep(20)
"""
    code, lines, _ = end_of(body, tmp_path)
    assert (code, lines) == (1, INTERRUPTED)
    assert (tmp_path / "summary.json").exists()


def test_work_that_puts_itself_in_order_first_may_do_so(tmp_path: Path) -> None:
    body = """
with termination.deferred():
    told(3)
    assert termination.is_asked()
    Folder(config.out).publish('checkpoint', b'1')
time.sleep(20)
"""
    code, lines, _ = end_of(body, tmp_path)
    assert (code, lines) == (1, INTERRUPTED)
    assert (tmp_path / "checkpoint").exists()


def test_told_while_flags_are_read_it_is_no_mistaken_flag(tmp_path: Path) -> None:
    script = (
        PRELUDE + "import argparse\nargparse.ArgumentParser.parse_args = lambda *a: told()\n"
        "main('job', Config, dict, 'A job.')\n"
    )
    words = [sys.executable, "-c", script, "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr.splitlines()) == (1, INTERRUPTED)


def test_afterwards_signals_are_handled_as_before() -> None:
    from pix2score.host.termination import handled

    kept = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with handled():
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, kept)


CTRL_C = """
def ends_well(*_):
    sys.exit(0)  # as the handler that Ray Train sets does

before = signal.getsignal(signal.SIGINT)
try:
    with termination.interruptible():
        signal.signal(signal.SIGINT, ends_well)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)
finally:
    print(f"as before: {signal.getsignal(signal.SIGINT) is before}", file=sys.stderr)
"""


def test_ctrl_c_is_no_success_whatever_a_library_makes_of_it(tmp_path: Path) -> None:
    code, lines, report = end_of(CTRL_C, tmp_path)
    assert (code, lines) == (1, ["as before: True", *INTERRUPTED])
    assert (report["error"], report["exit_code"]) == ("KeyboardInterrupt", 1)


def test_sigterm_stays_what_it_is_there(tmp_path: Path) -> None:
    code, lines, report = end_of("with termination.interruptible():\n    told()", tmp_path)
    assert (code, lines, report["error"]) == (1, INTERRUPTED, "Terminated")
