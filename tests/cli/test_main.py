"""A job whose standard output takes nothing any more ends with its work done, one line, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.pictures import encode, noise


@pytest.mark.parametrize("output", ["full disk", "reader gone"])
def test_a_summary_that_nobody_takes_is_one_line(tmp_path: Path, output: str) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.png").write_bytes(encode(noise(8, 8)))
    arguments = ["--images", str(tmp_path / "pictures"), "--out", str(tmp_path / "catalog")]
    read, write = os.pipe()
    os.close(read)
    stdout = os.open("/dev/full", os.O_WRONLY) if output == "full disk" else write
    done = subprocess.run(
        [sys.executable, "-m", "jobs.catalog", *arguments],
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert done.returncode == 1
    assert "standard output does not take the summary: " in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert (tmp_path / "catalog" / "summary.json").exists()
