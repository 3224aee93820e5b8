"""Presets, the rule of the learning rate, and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from pix2score.errors import ConfigError
from pix2score.metrics.kinds import is_metric
from pix2score.train.step.recipe import PRESETS, SMALL_DATA_ROWS, Recipe, preset_for, scaled_rate
from tests.support.torch_helpers import COUNT_HEAD


def test_auto_goes_by_the_number_of_training_rows() -> None:
    assert preset_for("auto", SMALL_DATA_ROWS - 1) is PRESETS["small"]
    assert preset_for("auto", SMALL_DATA_ROWS) is PRESETS["large"]
    assert preset_for("large", 10) is PRESETS["large"]
    with pytest.raises(ConfigError, match="'medium' is not known; one of auto, small, large"):
        preset_for("medium", 10)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_recipe(name: str) -> None:
    assert Recipe(**PRESETS[name].recipe).average > 0


def test_four_times_the_images_a_step_double_the_rate_of_adamw_and_quadruple_that_of_sgd() -> None:
    assert scaled_rate(1e-3, "adamw", 64) == scaled_rate(1e-3, "sgd", 64) == 1e-3
    assert scaled_rate(1e-3, "adamw", 256) == pytest.approx(2e-3)
    assert scaled_rate(1e-3, "sgd", 256) == pytest.approx(4e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"dropout": 1.0},
        {"average": -0.1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"accumulate": 0},
        {"weight_decay": -1.0},
    ],
)
def test_values_out_of_range_are_refused_by_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        Recipe(**wrong)


def test_a_metric_is_the_validation_loss_or_one_of_a_head() -> None:
    assert is_metric("val_loss", [COUNT_HEAD])
    assert is_metric("bookmark.spearman", [COUNT_HEAD])
    assert not is_metric("view.spearman", [COUNT_HEAD])
    assert not is_metric("bookmark.luck", [COUNT_HEAD])
