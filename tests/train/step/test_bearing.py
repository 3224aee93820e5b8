"""Changes that take away what was learnt are left out; those that do not are taken."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pix2score.heads.binary import BinaryHead
from pix2score.train.step.batch import Batch
from pix2score.train.step.bearing import Bearing, find_bearing
from pix2score.train.step.fitter import Fitter
from pix2score.train.step.recipe import Augment
from pix2score.train.step.validate import validation_loss
from tests.support.torch_helpers import fitter_of, settled_model

HEAD = BinaryHead(name="bright", column="bright", counts=(100, 100))
WANTED = Augment(flip=0.5, shift=0.02, scale=0.02, colour=0.05)


def rows_of(side: str, num: int = 32, seed: int = 0) -> Batch:
    """Noise whose left or right half, or upper or lower half, is brighter: that is the label."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(60, 120, (num, 32, 32, 3), dtype=np.uint8)
    yes = rng.random(num) < 0.5
    halves = pixels if side == "left" else pixels.swapaxes(1, 2)
    halves[yes, :, :16] += 100
    halves[~yes, :, 16:] += 100
    truth = torch.from_numpy(yes.astype(np.int64))
    return Batch(torch.from_numpy(pixels), {"bright": truth}, {"bright": truth.double()})


@functools.cache
def learnt(side: str) -> Fitter:
    fitter = fitter_of(settled_model([HEAD]), [HEAD], tries_augment=True, augment=WANTED, learning_rate=2e-3)
    for seed in range(8):
        fitter.train_step(rows_of(side, seed=seed))
    return fitter


def found(fitter: Fitter, side: str) -> Bearing:
    def batches() -> Iterator[Batch]:
        yield rows_of(side, seed=91)
        yield rows_of(side, seed=92)

    bearing = find_bearing(fitter, batches(), WANTED)
    assert bearing is not None
    return bearing


@pytest.mark.parametrize(("side", "flip"), [("left", 0.0), ("upper", 0.5)])
def test_mirror_images_are_left_out_where_they_change_what_a_picture_is(side: str, flip: float) -> None:
    fitter = learnt(side)
    assert fitter.augment == Augment()
    bearing = found(fitter, side)
    assert bearing.augment.flip == flip
    assert (bearing.costs["mirror images"][1.0] > 1) == (side == "left")
    assert (bearing.augment.shift, bearing.augment.scale, bearing.augment.colour) == (0.02, 0.02, 0.05)
    assert ("mirror images cost" in str(bearing)) and ("left out" in str(bearing)) == (side == "left")


def test_changes_that_have_a_size_are_weakened_before_they_are_left_out() -> None:
    fitter = learnt("left")
    bearing = find_bearing(fitter, iter([rows_of("left", seed=91)]), Augment(shift=0.9))
    assert bearing is not None
    assert list(bearing.costs["shifts and sizes"]) in ([1.0, 0.5], [1.0, 0.5, 0.25])
    assert bearing.augment.shift in (0.45, 0.225, 0.0)


def test_a_model_that_has_learnt_nothing_cannot_tell() -> None:
    fitter = fitter_of(settled_model([HEAD]), [HEAD], tries_augment=True, augment=WANTED)
    truth = torch.from_numpy(np.random.default_rng(1).integers(0, 2, 32))
    noise = Batch(rows_of("left").pixels_BSSC, {"bright": truth}, {"bright": truth.double()})
    assert find_bearing(fitter, iter([noise]), WANTED) is None


def test_answers_of_another_share_than_the_train_splits_are_nothing_learnt() -> None:
    """A calibrated constant is better than the train split's, whatever the pictures."""
    fitter = fitter_of(settled_model([HEAD]), [HEAD], tries_augment=True, augment=WANTED)
    truth = torch.from_numpy((np.random.default_rng(1).random(200) < 0.9).astype(np.int64))
    skewed = Batch(rows_of("left", 200).pixels_BSSC, {"bright": truth}, {"bright": truth.double()})
    assert validation_loss(fitter.validate([skewed])) < 0.7
    assert find_bearing(fitter, iter([skewed]), WANTED) is None
