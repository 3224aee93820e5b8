"""The import rule: a module imports only from its own or lower layers, without cycles; decode workers load no torch and no Ray."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pix2score

LAYERS: dict[int, set[str]] = {
    0: {"errors", "bins", "heads", "failures", "budget", "cores", "process", "termination"},
    1: {
        "places",
        "s3_access",
        "objects",
        "storage",
        "schema",
        "formats",
        "png",
        "jpeg",
        "mending",
        "resample",
        "tiff",
        "colours",
        "refusals",
        "images",
        "patience",
        "decode_child",
        "decoder",
        "plain_jpeg",
        "image_source",
        "image_rows",
        "row_groups",
        "repeats",
        "scratch",
        "scatter",
        "changed_rows",
        "engine",
        "catalog",
        "catalog_absent",
        "catalog_columns",
        "catalog_files",
        "catalog_guards",
        "catalog_read",
        "catalog_shape",
        "catalog_types",
        "plan",
        "training_plan",
        "scoring_plan",
        "layout",
        "staged",
        "takeup",
        "returned",
        "leases",
        "compaction",
        "rewrite",
        "cuts",
        "kept_answers",
        "publishing",
        "snapshot",
        "neighbours",
        "charts",
        "night",
        "page",
        "changes",
        "vacuum",
        "busy",
        "benchmark_plan",
        "benchmark_sets",
        "benchmark_decode",
        "benchmark_score",
        "verify",
        "artifact",
        "resnet_shapes",
        "resnet_graph",
        "forward_onnx",
        "dataset",
        "account",
        "command",
        "recipe",
        "train_config",
        "drawing",
        "drawn_catalog",
        "second_night",
    },
    2: {
        "model",
        "losses",
        "metrics",
        "fit",
        "predictor",
        "forward_torch",
        "device_decode",
        "augment",
        "average",
        "optimise",
        "precision",
        "surgery",
        "workers",
        "ridge",
        "batch",
        "measure",
        "norms",
        "predict",
        "served",
        "export",
        "quality",
        "verdict",
        "evaluation",
        "evaluation_page",
        "explain",
        "benchmark",
        "benchmark_model",
        "benchmark_train",
    },
    3: {
        "cluster",
        "counters",
        "progress",
        "fetch",
        "device_rows",
        "part_source",
        "score_config",
        "local_data",
        "remote",
        "score_pipeline",
        "local_ray",
        "ray_address",
        "ray_temp",
        "ray_token",
        "prepare",
        "shards",
        "taken_up",
        "train",
        "train_run",
        "train_worker",
        "train_log",
        "train_state",
        "train_ridge",
        "train_rows",
        "repair",
        "evaluate",
        "evaluate_stages",
        "originals",
        "report",
        "score",
        "score_stages",
        "score_account",
        "staging",
        "demo",
    },
}
FORBIDDEN_BELOW = {"torch": 2, "torchvision": 2, "ray": 3, "tensorboardX": 3}
PACKAGE = Path(pix2score.__file__).parent
LAYER_OF = {name: layer for layer, names in LAYERS.items() for name in names}


def _imports(path: Path) -> set[str]:
    """Dotted names of all imports, those inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _own(path: Path) -> set[str]:
    """Modules of the package that a file imports."""
    parts = {name.split(".")[1] for name in _imports(path) if name.startswith("pix2score.")}
    return parts & LAYER_OF.keys()


def _modules() -> dict[str, Path]:
    return {path.stem: path for path in PACKAGE.glob("*.py") if path.stem != "__init__"}


def test_every_module_has_a_layer() -> None:
    assert set(_modules()) == set(LAYER_OF)


def test_modules_import_only_their_own_or_lower_layers() -> None:
    wrong = [
        f"{name} (layer {LAYER_OF[name]}) imports {other} (layer {LAYER_OF[other]})"
        for name, path in _modules().items()
        for other in _own(path)
        if LAYER_OF[other] > LAYER_OF[name]
    ]
    assert not wrong, wrong


def test_imports_have_no_cycle() -> None:
    graph = {name: _own(path) - {name} for name, path in _modules().items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_torch_and_ray_stay_in_their_layers() -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, path in _modules().items()
        for imported in _imports(path)
        if LAYER_OF[name] < FORBIDDEN_BELOW.get(imported.split(".")[0], 0)
    ]
    assert not wrong, wrong


def _loaded(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(' '.join(m for m in ('torch', 'ray', 'pyarrow', 'duckdb', 's3fs') if m in sys.modules))"
    return set(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split())


def test_the_decode_child_loads_neither_torch_nor_ray_nor_arrow() -> None:
    assert _loaded("import pix2score.decoder") == set()


def test_decode_workers_load_no_torch() -> None:
    assert "torch" not in _loaded("import pix2score.fetch, pix2score.score, pix2score.prepare")


def test_help_of_every_job_loads_no_torch() -> None:
    jobs = [
        "prepare",
        "train",
        "score",
        "verify",
        "evaluate",
        "demo",
        "repair",
        "predict",
        "export",
        "report",
        "vacuum",
    ]
    assert "torch" not in _loaded(f"import {', '.join('jobs.' + job for job in jobs)}")
