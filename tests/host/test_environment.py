"""What a process runs on, and how a difference is said."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import features

import pix2score
from pix2score.host.environment import differences, environment
from tests.support.nodes import with_distribution
from tests.support.paths import ROOT

DRIVER = {"Python": "3.11", "Pillow": "12.0.0", "torch": "2.14.1"}


def test_an_environment_has_every_version_that_changes_pixels_or_answers() -> None:
    found = environment()
    assert found["Pillow"] == version("pillow")
    assert found["pillow-heif"] == version("pillow-heif")  # what a node lacks it would fail as UNSUPPORTED
    assert found["pillow-jxl-plugin"] == version("pillow-jxl-plugin")
    assert found["libjpeg-turbo"] == features.version("libjpeg_turbo")
    assert found["Python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert found["pix2score"].startswith(f"{pix2score.__version__}+")
    assert {"numpy", "pyarrow", "onnxruntime", "torch", "torchvision", "timm"} <= found.keys()


def test_asking_for_it_imports_neither_torch_nor_ray() -> None:
    script = (
        "import sys; from pix2score.host.environment import environment; environment(); "
        "print({'torch', 'ray', 'pyarrow', 'onnxruntime', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "set()\n"


def test_what_torch_was_built_for_is_no_difference(tmp_path: Path) -> None:
    script = "from pix2score.host.environment import environment; print(environment()['torch'])"
    paths = f"{with_distribution(tmp_path, 'torch', '2.14.1+cpu')}{os.pathsep}{ROOT}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        check=True,
    )
    assert done.stdout == "2.14.1\n"


def test_another_file_of_pix2score_is_another_version(tmp_path: Path) -> None:
    def of_copy() -> str:
        script = "from pix2score.host.environment import environment; print(environment()['pix2score'])"
        return subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            check=True,
        ).stdout

    package = tmp_path / "pix2score"
    (package / "host").mkdir(parents=True)
    for name in ("__init__.py", "host/__init__.py", "host/environment.py"):
        (package / name).write_bytes((ROOT / "pix2score" / name).read_bytes())
    before = of_copy()
    (package / "jobs").mkdir()
    (package / "jobs/score.py").write_text("# as installed: in a checkout it is elsewhere\n")
    assert of_copy() == before
    (package / "errors.py").write_text("# another\n")
    assert of_copy() != before


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (DRIVER, ""),
        ({**DRIVER, "Pillow": "11.0.0"}, "Pillow 11.0.0, the driver 12.0.0"),
        ({"Python": "3.11", "Pillow": "12.0.0"}, "no torch, the driver 2.14.1"),
        ({**DRIVER, "libavif": "1.4.2"}, "libavif 1.4.2, the driver none"),
        (
            {"Python": "3.11", "Pillow": "11.0.0"},
            "Pillow 11.0.0 and no torch, the driver Pillow 12.0.0 and torch 2.14.1",
        ),
    ],
)
def test_a_difference_names_both_sides(node: dict[str, str], said: str) -> None:
    assert differences(DRIVER, node) == said
