"""What the package shows to others: its names, its types, and the command of an installed copy."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from setuptools import find_packages

import pix2score
from pix2score import errors
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
JOBS = {path.stem for path in (ROOT / "jobs").glob("[a-z]*.py")}
IN_AN_EMPTY_PROCESS = """
import pix2score
rooms = {path.stem for path in __import__('pathlib').Path(pix2score.__file__).parent.iterdir()}
print(*sorted(name for name in vars(pix2score) if not name.startswith('_') and name not in rooms))
"""


def test_every_public_name_is_listed_and_importable() -> None:
    assert sorted(pix2score.__all__) == pix2score.__all__
    assert all(getattr(pix2score, name) is not None for name in pix2score.__all__)


def test_every_job_of_the_command_is_a_function_with_a_config_and_a_summary() -> None:
    # A tool, a show; ``Model`` is what predict uses, ``Neighbours`` what similar does.
    for job in JOBS - {"benchmark", "demo", "predict", "similar"}:
        function, name = getattr(pix2score, job), job.title()
        assert callable(function)
        signature = inspect.signature(function)
        assert [p.annotation for p in signature.parameters.values()] == [f"{name}Config"]
        assert signature.return_annotation == f"{name}Summary"
        assert {f"{name}Config", f"{name}Summary"} <= set(pix2score.__all__)


def test_a_job_is_a_function_whatever_was_imported_before_and_travels_to_another_process() -> None:
    importlib.import_module("pix2score.score.config")
    assert callable(pix2score.score)
    assert pickle.loads(pickle.dumps(pix2score.score)) is pix2score.score


def test_an_error_that_jobs_raise_is_public() -> None:
    raised = {
        name for name, item in vars(errors).items() if isinstance(item, type) and issubclass(item, Exception)
    }
    assert raised <= set(pix2score.__all__)


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import pix2score", {"torch", "ray", "pyarrow", "numpy", "PIL"}),
        (
            "import pix2score; pix2score.ScoreConfig, pix2score.ScoreSummary, pix2score.score",
            {"torch", "ray"},
        ),
    ],
)
def test_importing_is_cheap(statement: str, heavy: set[str]) -> None:
    script = f"import sys; {statement}; print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "set()\n"


def test_every_public_name_says_what_it_is() -> None:
    assert all(getattr(pix2score, name).__doc__ for name in pix2score.__all__)


def test_nothing_else_is_public() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_AN_EMPTY_PROCESS], capture_output=True, text=True, check=True, cwd=ROOT
    )
    lazy = {"TYPE_CHECKING", "Any", "annotations", "import_module"}
    assert set(done.stdout.split()) - lazy == set()
    assert sorted(dir(pix2score)) == sorted(pix2score.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'pix2score' has no attribute 'reed_scores'"):
        pix2score.reed_scores  # noqa: B018


def test_every_folder_is_a_package_of_the_wheel() -> None:
    """A list, as ``jobs`` goes by another name there, which no search for packages knows."""
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted([*find_packages(str(ROOT), include=["pix2score*"]), "pix2score.jobs"])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as ``pip install`` puts it there from a copy of the checkout."""
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"
    for folder in ("pix2score", "jobs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    words = [
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        place / "site",
        source,
    ]
    subprocess.run([sys.executable, "-m", *map(str, words)], check=True)
    return place / "site"


@pytest.fixture
def pix2score_command(installed: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``pix2score …`` in an empty folder."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, installed / "bin/pix2score", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(installed)},
        )

    return run


def test_the_installed_package_is_whole_and_leaves_the_name_jobs_free(installed: Path) -> None:
    tops = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"bin", "pix2score"}
    assert (installed / "pix2score/py.typed").exists()
    assert {path.stem for path in installed.glob("pix2score/jobs/[a-z]*.py")} == JOBS
    for suffix in ("html", "css", "js"):
        for page in (ROOT / "pix2score").rglob(f"*.{suffix}"):
            assert (installed / page.relative_to(ROOT)).exists()


def test_without_a_job_the_command_lists_them(
    pix2score_command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    for words in ([], ["--help"]):
        done = pix2score_command(*words)
        assert (done.returncode, done.stderr) == (0, "")
        lines = [line for line in done.stdout.splitlines() if line.startswith("  ")]
        assert {line.split()[0] for line in lines} == JOBS
        assert all(40 < len(line) <= 110 for line in lines)


def test_an_unknown_job_is_one_line_with_the_nearest_name(
    pix2score_command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = pix2score_command("scor", "--catalog", "x")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pix2score: unknown job 'scor'; did you mean score?\n"


def test_a_job_of_the_command_is_that_of_a_checkout(
    pix2score_command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    asked = pix2score_command("verify", "--help")
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.startswith("usage: pix2score verify --scores STR [OPTIONS]")
    wrong = pix2score_command("verify", "--scores", "nowhere")
    in_checkout = subprocess.run(
        [sys.executable, "-m", "jobs.verify", "--scores", "nowhere"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert wrong.returncode == in_checkout.returncode == 2
    assert wrong.stdout.startswith('{"job": "verify", "error": "DataError"')
    assert wrong.stderr.startswith("jobs.verify: ")
