"""The jobs as a person or a scheduler runs them: whole processes, exit codes, one JSON line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import jobs
from tests.support.paths import ROOT

JOBS = (
    "demo",
    "catalog",
    "prepare",
    "train",
    "evaluate",
    "repair",
    "score",
    "verify",
    "vacuum",
    "benchmark",
    "predict",
    "ascend",
    "ensemble",
    "align",
    "pseudo",
    "compare",
    "export",
    "report",
    "publish",
    "push",
    "history",
    "kpi",
    "refit",
    "index",
    "similar",
    "serve",
    "duplicates",
)


def run_job(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, timeout=280, check=False
    )


def test_jobs_alone_lists_them() -> None:
    done = run_job("jobs")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: python -m jobs.JOB ")
    assert {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")} == set(JOBS)


@pytest.mark.parametrize(
    "job", [pytest.param(job, marks=() if job == "score" else pytest.mark.slow) for job in JOBS]
)
def test_help_tells_what_the_job_does(job: str) -> None:
    done = run_job(f"jobs.{job}", "--help")
    assert done.returncode == 0
    assert f"python -m jobs.{job}" in done.stdout
    assert "--config FILE" in done.stdout


def test_a_mistake_is_one_line_exit_2_and_nothing_written(tmp_path: Path) -> None:
    done = run_job(
        "jobs.score",
        "--catalog",
        str(tmp_path / "none"),
        "--model",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    )
    assert done.returncode == 2
    assert done.stderr.startswith("jobs.score: ")
    assert done.stderr.count("\n") == 1
    assert json.loads(done.stdout.splitlines()[-1])["exit_code"] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_without_the_packages_names_them() -> None:
    bare = [sys.executable, "-S", "-m", "jobs.score", "--help"]  # -S: no site-packages
    done = subprocess.run(bare, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("pix2score needs ray, torch, ")
    assert done.stderr.count("\n") == 1


IMPORTED_AS = {"pillow": "PIL"}


def test_every_dependency_is_looked_for_before_an_import_fails() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in project["dependencies"]]
    assert {IMPORTED_AS.get(name.lower(), name) for name in names} == set(jobs.NEEDED)


@pytest.mark.endurance
@pytest.mark.timeout(600)
def test_the_demo_runs_every_stage(tmp_path: Path) -> None:
    done = run_job("jobs.demo", "--out", str(tmp_path / "demo"), "--num-pictures", "120", "--epochs", "2")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["snapshot"], summary["failed"]) == (2, 6)
    assert "Next:" in done.stdout
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000
    assert "-m jobs.serve --model" in done.stdout
