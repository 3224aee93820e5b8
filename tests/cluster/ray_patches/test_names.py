"""Ray's private names: the installed Ray has each that is used, and no file but these uses any."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest
import ray

import pix2score
from pix2score.cluster.ray_patches.lookup import missing_names
from pix2score.cluster.ray_patches.names import ASKED, NEEDED, PATCHED, SETTINGS
from pix2score.cluster.ray_patches.services import CHECKPOINT_LIST

PACKAGE = Path(pix2score.__file__).parent
INSIDE = PACKAGE / "cluster" / "ray_patches"
PRIVATE = re.compile(r"\bray\._\w+|\b_raylet\b|ray\.data\._internal|ray\.train\.v2\b|ray\.\w+\._private")
DOCUMENTED = {
    "ray.data.datasource.ReadTask",
    "ray.data.block.BlockMetadata",
    "ray.data.DataContext",
    "ray.data.ExecutionOptions",
}
"""Marked as for developers, and in the user guide all the same."""
NAMES = (*PATCHED, *ASKED, *NEEDED)


def test_the_installed_ray_has_every_name_that_is_used() -> None:
    assert missing_names(NAMES) == [], f"Ray {ray.__version__} lacks these"


@pytest.mark.parametrize(
    "name",
    [
        "ray._private.node:Node.start_nothing",
        "ray._private.services:get_nothing",
        "ray._private.nothing:get_node",
        "ray.data._internal.execution.interfaces.ref_bundle:RefBundle.rests",
    ],
)
def test_a_name_that_ray_lacks_is_named(name: str) -> None:
    assert missing_names([*NAMES, name]) == [name]


def test_ray_processes_know_every_setting() -> None:
    binary = Path(ray.__file__).with_name("core") / "src" / "ray" / "raylet" / "raylet"
    known = binary.read_bytes()
    unknown = [name for name in SETTINGS if name.removeprefix("RAY_").encode() not in known]
    assert unknown == [], f"Ray {ray.__version__} knows no such settings"


def test_the_list_of_checkpoints_has_the_name_that_ray_gives_it() -> None:
    constants = importlib.import_module("ray.train.v2._internal.constants")
    assert constants.CHECKPOINT_MANAGER_SNAPSHOT_FILENAME == CHECKPOINT_LIST


def private_lines(path: Path) -> list[str]:
    """Lines of a file that name a private place of Ray or an unstable name, with their numbers."""
    last = {name.rpartition(":")[2].rpartition(".")[2] for name in NAMES}
    own = {"get_node", "block_refs", "has_token"}  # words of this package too
    unstable = {name for name in last if "_" in name} - own
    word = re.compile(rf"\b({'|'.join(sorted(unstable))})\b|{PRIVATE.pattern}|RAY_[a-z]\w+")
    return [
        f"{path.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if word.search(line)
    ]


def attribute(module: str, name: str) -> object:
    """What ``from module import name`` gives: also a module of its own."""
    found = importlib.import_module(module)
    return getattr(found, name) if hasattr(found, name) else importlib.import_module(f"{module}.{name}")


def unstable_imports(path: Path) -> list[str]:
    """Names that a file imports from Ray which Ray itself marks as alpha or for developers."""
    imported = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ray"
        for alias in node.names
    ]
    marks = {
        f"{module}.{name}": getattr(attribute(module, name), "_annotated_type", None)
        for module, name in imported
    }
    return [
        f"{path.relative_to(PACKAGE)} imports {name}, marked as {mark}"
        for name, mark in marks.items()
        if mark is not None and str(mark) != "AnnotationType.PUBLIC_API"
        if name not in DOCUMENTED
    ]


def test_private_ray_is_touched_in_one_place() -> None:
    outside = [path for path in PACKAGE.rglob("*.py") if INSIDE not in path.parents]
    assert [line for path in outside for line in private_lines(path)] == []
    assert [line for path in outside for line in unstable_imports(path)] == []


def test_what_is_looked_for_is_found_where_it_is() -> None:
    assert any("get_all_node_info" in line for line in private_lines(INSIDE / "local_start.py"))
    assert any("RAY_prestart" in line for line in private_lines(INSIDE / "local_start.py"))
