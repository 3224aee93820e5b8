"""Augmentation keeps size, range and composition, and draws the same for the same seed."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pix2score.errors import ConfigError
from pix2score.model.network import normalise
from pix2score.train.step.augment import _quantised, augmented
from pix2score.train.step.recipe import PRESETS, Augment
from tests.support.torch_helpers import PREPROCESS, pixels

ALL = Augment(flip=0.5, shift=0.1, scale=0.1, colour=0.2, blur=0.5, jpeg=0.5)


def pictures(num: int = 6, size: int = 64) -> Tensor:
    return torch.from_numpy(pixels(num, seed=1, size=size))


def test_none_gives_the_pixels_as_they_are() -> None:
    assert torch.equal(augmented(pictures(), Augment()), pictures().float())


@pytest.mark.parametrize("size", [32, 64, 75])
def test_shape_and_range_stay(size: int) -> None:
    given = torch.randint(0, 256, (5, size, size, 3), dtype=torch.uint8)
    found = augmented(given, ALL)
    assert found.shape == given.shape
    assert found.dtype == torch.float32
    assert 0 <= found.min() <= found.max() <= 255


def test_augmented_pictures_reach_the_network_channels_last_as_plain_ones_do() -> None:
    for augment in (Augment(), ALL):
        assert normalise(augmented(pictures(), augment), PREPROCESS).is_contiguous(
            memory_format=torch.channels_last
        )


def test_the_same_seed_draws_the_same_and_each_picture_its_own() -> None:
    same = pictures(1).expand(4, -1, -1, -1)
    torch.manual_seed(5)
    first = augmented(same, ALL)
    torch.manual_seed(5)
    assert torch.equal(augmented(same, ALL), first)
    assert not torch.equal(first[0], first[1])


def test_a_flip_is_the_mirror_image() -> None:
    torch.testing.assert_close(
        augmented(pictures(), Augment(flip=1.0)), pictures().float().flip(2), atol=0.01, rtol=0
    )


def test_the_share_of_flips_is_the_chance() -> None:
    found = augmented(pictures(1).expand(400, -1, -1, -1), Augment(flip=0.25))
    flipped = (found - pictures(1).float()).abs().amax((1, 2, 3)) > 1
    assert 0.17 < flipped.float().mean() < 0.33


def test_a_shift_moves_at_most_its_share_and_leaves_the_middle_in_the_picture() -> None:
    dot = torch.zeros(200, 64, 64, 3, dtype=torch.uint8)
    dot[:, 31:33, 31:33] = 255
    found = augmented(dot, Augment(shift=0.1)).sum(3)
    rows = (found.sum(2) * torch.arange(64)).sum(1) / found.sum((1, 2))
    assert (rows - 31.5).abs().max() <= 6.4 + 0.1
    assert (rows - 31.5).abs().max() > 4


def test_a_grey_picture_stays_grey() -> None:
    grey = pictures().float().mean(3, keepdim=True).expand(-1, -1, -1, 3)
    found = augmented(grey, Augment(colour=0.3, flip=0.5, shift=0.1))
    assert (found.max(3).values - found.min(3).values).max() < 0.01


def test_quantisation_is_near_what_a_jpeg_encoder_does_to_a_grey_picture() -> None:
    ramp = np.add.outer(np.linspace(0, 120, 64), np.linspace(0, 120, 64)) + 20 * np.random.default_rng(
        0
    ).random((64, 64))
    grey = np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "JPEG", quality=60, subsampling=0)
    encoded = np.asarray(Image.open(file)).astype(float)
    torch.manual_seed(0)
    given = torch.from_numpy(grey).float().permute(2, 0, 1)[None].expand(32, -1, -1, -1)
    found = _quantised(given)
    error = (found - given).abs().mean((1, 2, 3))
    assert error.min() < np.abs(encoded - grey).mean() < error.max()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_changes_pictures_by_little_on_average(name: str) -> None:
    smooth = torch.from_numpy(pixels(64, seed=2, size=64)).float()
    smooth = torch.nn.functional.avg_pool2d(smooth.permute(0, 3, 1, 2), 9, 1, 4).permute(0, 2, 3, 1)
    unrelated = (smooth - smooth.roll(1, 0)).abs().mean()
    settings = PRESETS[name].recipe["augment"]
    changed = augmented(smooth, Augment(shift=settings.shift, scale=settings.scale, colour=settings.colour))
    assert (changed - smooth).abs().mean() < 0.6 * unrelated


def test_a_chance_above_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="augment flip 2"):
        Augment(flip=2)
