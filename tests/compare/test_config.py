"""A comparison's file: each run is train's own flags over those of all, and every mistake is one line."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from pix2score.cli.flags import resolve
from pix2score.compare.config import CompareConfig
from pix2score.errors import ConfigError
from pix2score.train.config import TrainConfig

RUNS: tuple[dict[str, Any], ...] = ({"name": "a"}, {"name": "b", "epochs": 3})


def config(**given: Any) -> CompareConfig:
    return CompareConfig(**{"data": "d", "out": "o", "runs": RUNS, **given})


def test_a_run_is_trains_own_flags_over_those_of_all() -> None:
    text = """
        data = "d"
        out = "s3://b/o/"
        seeds = [4]
        [train]
        backbone = "resnet18"
        epochs = 2
        augment.flip = 0.0
        [train.heads.view]
        weight = 2.0
        [[runs]]
        name = "first"
        [[runs]]
        name = "second"
        epochs = "7"
        augment.shift = 0.1
        [runs.heads.view]
        loss = "ordinal"
    """
    table = tomllib.loads(text)
    found = CompareConfig(**{**table, "seeds": (4,), "runs": tuple(table["runs"])})
    first, second = (found.training(run, 4) for run in found.runs)
    assert first == TrainConfig(
        data="d",
        out="s3://b/o/first-seed4",
        backbone="resnet18",
        epochs=2,
        seed=4,
        augment=type(first.augment)(flip=0.0),
        heads={"view": {"weight": 2.0}},
    )
    assert (second.out, second.epochs, second.backbone) == ("s3://b/o/second-seed4", 7, "resnet18")
    assert (second.augment.flip, second.augment.shift) == (0.0, 0.1)
    assert second.heads == {"view": {"weight": 2.0, "loss": "ordinal"}}


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "compare.toml"
    path.write_text('data = "d"\nout = "o"\nseeds = [0]\n[[runs]]\nname = "a"\n')
    words = ["--config", str(path), "--seeds", "3", "--seeds", "5", "--split", "val", "--out", "p"]
    found = resolve(CompareConfig, words)
    assert (found.seeds, found.split, found.out, found.data) == ((3, 5), "val", "p", "d")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"runs": ()}, "runs: none is given"),
        ({"runs": ({"name": "a"}, {"name": "a"})}, "a is the name of two"),
        ({"runs": ({"backbone": "resnet18"},)}, "run 1: name None is not one for a folder"),
        ({"runs": ({"name": "a/b"},)}, "run 1: name 'a/b' is not one for a folder"),
        ({"runs": ({"name": ".."},)}, "run 1: name '..' is not one for a folder"),
        ({"runs": ({"name": "ridge"},)}, "ridge is the name of a reference"),
        ({"runs": ({"name": "a", "seed": 1},)}, "run a: seed is not set here; it is seeds, for every run"),
        ({"runs": ({"name": "a", "out": "x"},)}, "run a: out is not set here"),
        ({"train": {"data": "x"}}, r"\[train\]: data is not set here"),
        ({"train": {"name": "x"}}, r"\[train\]: a name is a run's"),
        ({"runs": ({"name": "a", "backbon": "x"},)}, "run a: unknown key 'backbon'; did you mean 'backbone'"),
        ({"train": {"epoch": 3}}, r"\[train\]: unknown key 'epoch'; did you mean 'epochs'"),
        (
            {"runs": ({"name": "a", "augment": {"flop": 1}},)},
            "unknown key 'augment.flop'; did you mean 'flip'",
        ),
        ({"runs": ({"name": "a", "epochs": 0},)}, "run a: epochs 0: at least 1"),
        ({"runs": ({"name": "a", "epochs": "many"},)}, "run a: --epochs many: expected a whole number"),
        ({"runs": ({"name": "a", "heads": {"x": {"lss": 1}}},)}, r"run a: \[heads.x\] has unknown key lss"),
        ({"seeds": ()}, "seeds: at least one"),
        ({"seeds": (1, 1)}, "seeds 1, 1: expected different whole numbers"),
        ({"split": "tset"}, "split 'tset' is not known; one of train, val, test"),
        ({"side_by_side": 0}, "side_by_side 0: at least 1"),
    ],
)
def test_a_mistake_is_one_line_naming_the_run(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "form"),
    [("runs = 3", r"tables, each under its own \[\[runs\]\]"), ("train = 3", r"a table, \[train\]")],
)
def test_tables_of_another_form_are_refused(tmp_path: Path, text: str, form: str) -> None:
    path = tmp_path / "compare.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=form):
        resolve(CompareConfig, ["--data", "d", "--out", "o", "--config", str(path)])
