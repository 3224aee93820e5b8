"""Settings of jobs.train: what a preset fills in, and what is given over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pix2score.cli.flags import resolve
from pix2score.errors import ConfigError
from pix2score.train.config import TrainConfig
from pix2score.train.head_options import with_options
from pix2score.train.recipes import make_recipe, stops_after
from pix2score.train.step.recipe import PRESETS, Augment
from tests.support.torch_helpers import HEADS


def augment(*flags: str) -> Augment:
    config = resolve(TrainConfig, ["--data", "d", "--out", "o", *flags])
    return make_recipe(config, num_rows=10, images_per_step=64, total_steps=5).augment


def test_strengths_that_are_not_given_are_the_presets() -> None:
    small = PRESETS["small"].recipe["augment"]
    assert augment() == small
    found = augment("--augment.rotate", "15", "--augment.hue", "0.1", "--augment.flip-vertical", "0.5")
    assert (found.rotate, found.hue, found.flip_vertical) == (15, 0.1, 0.5)
    assert (found.flip, found.shift, found.colour) == (small.flip, small.shift, small.colour)


def test_robust_adds_blur_and_jpeg_and_a_strength_over_it_wins() -> None:
    found = augment("--augment", "robust", "--augment.jpeg", "0.9")
    assert (found.blur, found.blur_sigma, found.jpeg, found.jpeg_worst, found.jpeg_best) == (
        0.5,
        3,
        0.9,
        30,
        100,
    )
    assert found.flip == PRESETS["small"].recipe["augment"].flip


def test_none_leaves_what_is_given_alone() -> None:
    assert augment("--no-augment") == augment("--augment", "none") == Augment()
    assert augment("--augment", "none", "--augment.flip", "0.5") == Augment(flip=0.5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("augment = false", Augment()),
        ("augment = true", PRESETS["small"].recipe["augment"]),
        ('[augment]\npreset = "none"\nrotate = 5', Augment(rotate=5)),
    ],
)
def test_a_file_may_name_the_preset_or_a_table_of_strengths(
    tmp_path: Path, text: str, expected: Augment
) -> None:
    path = tmp_path / "train.toml"
    path.write_text(text)
    assert augment("--config", str(path)) == expected


def test_an_unknown_preset_and_a_strength_out_of_range_are_one_line_each() -> None:
    with pytest.raises(ConfigError, match=r"--augment strong: expected one of auto, recipe, robust, none"):
        augment("--augment", "strong")
    with pytest.raises(ConfigError, match="augment rotate 200.0: expected 0 to 180"):
        augment("--augment.rotate", "200")


def heads_of(tmp_path: Path, text: str) -> TrainConfig:
    path = tmp_path / "train.toml"
    path.write_text(text)
    return resolve(TrainConfig, ["--data", "d", "--out", "o", "--config", str(path)])


def test_a_file_sets_weight_loss_and_noise_of_one_head(tmp_path: Path) -> None:
    config = heads_of(
        tmp_path, '[heads.bookmark]\nweight = 2\nlabel_noise = 0.3\n[heads.sanity]\nloss = "class_weighted"'
    )
    first, second = with_options(HEADS, config.heads)
    assert (first.weight, first.loss) == (2.0, HEADS[0].loss)
    assert (second.weight, second.loss) == (HEADS[1].weight, "class_weighted")
    recipe = make_recipe(config, num_rows=10, images_per_step=64, total_steps=5)
    assert [recipe.noise_of(head) for head in HEADS] == [0.3, 0.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[heads.bookmark]\nsize = 3", r"\[heads.bookmark\] has unknown key size; train sets weight"),
        ("[heads.bookmark]\nweight = -1", r"\[heads.bookmark\] weight = -1: expected a number, 0 or more"),
        ("[heads.bookmark]\nloss = 3", r"\[heads.bookmark\] loss = 3: expected a string"),
        ('[[heads]]\nname = "bookmark"', r"must be tables by name here, such as \[heads.NAME\]"),
    ],
)
def test_what_a_training_cannot_set_of_a_head_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        heads_of(tmp_path, text)


def test_a_loss_of_another_kind_is_refused_by_the_head() -> None:
    with pytest.raises(ConfigError, match=r"head 'bookmark': loss 'mse' is not known; one of auto, ordinal"):
        with_options(HEADS, {"bookmark": {"loss": "mse"}})


def test_a_head_that_the_dataset_lacks_and_weights_of_nothing_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"\[heads.likes\]: the dataset has no such head; it has bookmark, san"
    ):
        with_options(HEADS, {"likes": {"weight": 2}})
    with pytest.raises(ConfigError, match="every weight is 0"):
        with_options(HEADS, {"bookmark": {"weight": 0}, "sanity": {"weight": 0}})


@pytest.mark.parametrize(
    ("settings", "num_rows", "expected"),
    [
        ({}, 1000, 10),
        ({"weights": "imagenet"}, 1000, 4),
        ({}, 100_000, None),
        ({"recipe": "small"}, 100_000, 10),
        ({"epochs": 30}, 1000, None),
        ({"max_steps": 30}, 1000, None),
        ({"epochs": 30, "patience": 3}, 1000, 3),
        ({"patience": 3}, 100_000, 3),
        ({"weights": "imagenet", "freeze": "trunk"}, 1000, None),
    ],
)
def test_a_training_on_small_data_ends_where_nothing_gets_better_unless_told_its_epochs(
    settings: dict[str, Any], num_rows: int, expected: int | None
) -> None:
    assert stops_after(TrainConfig(data="d", out="o", **settings), num_rows) == expected
