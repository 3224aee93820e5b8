"""What people look at: pictures, confusion, curves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pix2score.metrics.accumulate import CELL, OrderedAccumulator
from pix2score.storage.folder import Folder
from pix2score.train.log import (
    CURVE_POINTS,
    below_ridge,
    epoch_line,
    final_table,
    picture_grid,
    thinned,
    write_logs,
)
from tests.support.torch_helpers import COUNT_HEAD, HEADS, pixels


def entry(**changes: Any) -> dict[str, Any]:
    numbers = {"num_labelled": 9, "spearman": 0.5, "kappa": 0.4, "nll": 1.1, "prior_nll": 1.3, "ece": 0.05}
    whole = {
        "epoch": 2,
        "steps": 40,
        "loss": 0.9,
        "loss_by_head": {"bookmark": 0.6, "sanity": 0.3},
        "skipped_steps": 0,
        "val_loss": 0.95,
        "val": {"bookmark": dict(numbers), "sanity": {"num_labelled": 0}},
        "temperatures": {"bookmark": 1.2, "sanity": 1.0},
        "learning_rate": 1e-3,
        "images_per_s": 120.0,
        "seconds": 10.0,
        "waited_s": 0.5,
    }
    return {**whole, **changes}


def test_the_epoch_line_has_both_losses_metrics_rate_waits_and_skipped_steps() -> None:
    line = epoch_line(entry(skipped_steps=3), 5, HEADS)
    for part in (
        "epoch 2/5: loss 0.900, validation 0.950; ",
        "bookmark spearman 0.500, sanity kappa -; ",
        "rate 0.001",
        "120 images/s, 5% of the time without a batch",
        "3 steps skipped",
    ):
        assert part in line


def test_the_epoch_line_of_many_heads_is_one_that_is_read() -> None:
    quiet = entry(waited_s=0.1, peak_memory_mib=1667.0)
    assert len(epoch_line(quiet, 30, HEADS)) < 110
    assert "batch" not in epoch_line(quiet, 30, HEADS)
    assert "MiB" not in epoch_line(quiet, 30, HEADS)
    assert "peak memory 1667 MiB" in epoch_line({**quiet, "epoch": 1}, 30, HEADS)
    twice = {**quiet, "val": dict.fromkeys(("bookmark", "sanity"), quiet["val"]["bookmark"])}
    heads = [HEADS[0], replace(HEADS[0], name="sanity")]
    assert "bookmark spearman 0.500, sanity 0.500;" in epoch_line(twice, 30, heads)


def test_the_final_table_stands_beside_prior_and_ridge() -> None:
    text = final_table(entry(), {"bookmark": 0.31, "sanity": None}, HEADS)
    bookmark, sanity = text.splitlines()[2:]
    for part in ("spearman 0.500", "0.310", "1.100 (1.300)", "0.050", "1.20"):
        assert part in bookmark
    assert "no label" in sanity


def test_the_final_table_says_which_weights_are_saved() -> None:
    assert "validation of epoch 2, which is saved" in final_table(entry(), {}, HEADS)
    assert "epoch 2, with averaged weights, which is saved" in final_table(
        entry(weights="averaged"), {}, HEADS
    )


@pytest.mark.parametrize(
    ("ridge", "number", "is_told"),
    [(0.7, 100, True), (0.59, 100, False), (0.59, 10_000, True), (0.4, 100, False), (None, 100, False)],
)
def test_a_head_that_is_below_the_ridge_by_more_than_chance_is_told_what_may_help(
    ridge: float | None, number: int, is_told: bool
) -> None:
    val = {"bookmark": {"num_labelled": number, "spearman": 0.5}, "sanity": {"num_labelled": 0}}
    found = below_ridge(entry(val=val), {"bookmark": ridge, "sanity": 0.9}, HEADS)
    assert len(found) == is_told
    assert all("bookmark: a ridge regression" in line and "--freeze trunk" in line for line in found)


def test_pictures_stand_side_by_side_in_order() -> None:
    images = torch.from_numpy(pixels(9)).float()
    grid = picture_grid(images, columns=4)
    assert grid.shape == (64, 128, 3)
    assert torch.equal(grid[32:64, 32:64], images[5].to(torch.uint8))
    assert picture_grid(images[:2]).shape == (32, 64, 3)


def test_a_sure_confusion_is_blue_on_its_cell_and_white_elsewhere() -> None:
    metrics = OrderedAccumulator(COUNT_HEAD)
    metrics.add(np.eye(4)[[1, 1, 1]] * 9, np.array([0, 0, 0]), np.array([0.0, 0.0, 0.0]))
    picture = metrics.picture()
    assert picture.shape == (4 * CELL, 4 * CELL, 3)
    assert picture[0, CELL].tolist() == [0, 0, 255]
    assert picture[0, 0].tolist() == [255, 255, 255]


def test_a_long_curve_is_thinned_and_keeps_its_last_point() -> None:
    curve: list[dict[str, float]] = []
    for step in range(1, 5 * CURVE_POINTS):
        curve = thinned([*curve, {"step": float(step)}])
    assert len(curve) <= CURVE_POINTS
    assert curve[-1]["step"] == 5 * CURVE_POINTS - 1


def test_history_and_events_hold_scalars_and_pictures(tmp_path: Path) -> None:
    curve = [{"step": 1.0, "loss": 1.0, "learning_rate": 0.1}]
    write_logs(Folder(str(tmp_path)), [entry()], curve, {"confusion/bookmark": np.zeros((4, 4, 3), np.uint8)})
    (events,) = (tmp_path / "tensorboard").iterdir()
    data = events.read_bytes()
    for name in (
        b"loss_by_head/bookmark",
        b"step/loss",
        b"confusion/bookmark",
        b"val_spearman/bookmark",
        b"learning_rate",
    ):
        assert name in data
    assert (tmp_path / "history.jsonl").read_text().count("\n") == 1
