"""The import rule: a module imports from its own room and from rooms listed before it; no file in a
circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pix2score

ROOMS = [
    *(
        "errors",
        "summaries",
        "host",
        "storage",
        "cli",
        "heads",
        "images",
        "catalog",
        "dataset",
        "snapshots",
        "neighbours",
        "nightly",
        "metrics",
        "report",
        "kpi",
    ),
    *("model", "serve", "train.step", "refit", "ascend", "pseudo"),  # torch from here on
    *(
        "cluster",
        "prepare",
        "train",
        "evaluate",
        "ensemble",
        "align",
        "compare",
        "score",
        "service",
        "benchmark",
        "demo",
    ),  # Ray from here on
]
FIRST_WITH = {
    "torch": "model",
    "torchcodec": "model",
    "torchvision": "model",
    "timm": "model",
    "ray": "cluster",
    "tensorboardX": "train",
}
PACKAGE = Path(pix2score.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
}


def room(module: str) -> int:
    """Place in ROOMS of the longest name that ``module`` begins with: ``train.step.losses`` is in
    ``train.step``."""
    return max(
        (i for i, name in enumerate(ROOMS) if f"{module}.".startswith(f"{name}.")),
        key=lambda i: len(ROOMS[i]),
    )


def imports(path: Path) -> set[str]:
    """Dotted names of all imports, those inside functions too."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {
        f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def own(path: Path) -> set[str]:
    """Modules of the package that a file imports."""
    names = {name.removeprefix("pix2score.") for name in imports(path) if name.startswith("pix2score.")}
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES.keys()


def test_every_folder_is_a_room() -> None:
    assert {name.split(".")[0] for name in MODULES} == {name.split(".")[0] for name in ROOMS}


def test_rooms_import_only_rooms_before_them() -> None:
    assert not [
        f"{name} -> {other}"
        for name, path in MODULES.items()
        for other in own(path)
        if room(other) > room(name)
    ]


def test_no_file_is_in_a_circle() -> None:
    list(TopologicalSorter({name: own(path) - {name} for name, path in MODULES.items()}).static_order())


def test_torch_and_ray_begin_in_their_rooms() -> None:
    first = {package: ROOMS.index(name) for package, name in FIRST_WITH.items()}
    assert not [
        (n, i)
        for n, path in MODULES.items()
        for i in imports(path)
        if room(n) < first.get(i.split(".")[0], 0)
    ]


def _loaded(code: str) -> set[str]:
    script = (
        f"{code}\nimport sys; print(' '.join(m for m in ('torch', 'ray', 'pyarrow', 'duckdb', 's3fs') "
        "if m in sys.modules))"
    )
    return set(
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_the_decode_child_loads_neither_torch_nor_ray_nor_arrow() -> None:
    assert _loaded("import pix2score.images.decoder") == set()


def test_decode_workers_load_no_torch() -> None:
    assert "torch" not in _loaded(
        "import pix2score.cluster.decode, pix2score.score.job, pix2score.prepare.job"
    )


def test_help_of_every_job_loads_no_torch() -> None:
    jobs = [
        "prepare",
        "train",
        "score",
        "verify",
        "evaluate",
        "demo",
        "ensemble",
        "compare",
        "repair",
        "predict",
        "ascend",
        "export",
        "report",
        "publish",
        "history",
        "vacuum",
        "kpi",
        "serve",
    ]
    assert "torch" not in _loaded(f"import {', '.join('jobs.' + job for job in jobs)}")
