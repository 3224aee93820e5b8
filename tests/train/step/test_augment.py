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
from pix2score.train.step.augment import _hue_turned, _quantised, augmented
from pix2score.train.step.recipe import PRESETS, Augment
from tests.support.torch_helpers import PREPROCESS, pixels

ALL = Augment(
    flip=0.5,
    flip_vertical=0.5,
    shift=0.1,
    scale=0.1,
    rotate=15,
    hue=0.1,
    colour=0.2,
    blur=0.5,
    blur_sigma=2.0,
    jpeg=0.5,
)


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
    found = _quantised(given, 30, 90)
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


def test_a_vertical_flip_is_the_picture_upside_down() -> None:
    torch.testing.assert_close(
        augmented(pictures(), Augment(flip_vertical=1.0)), pictures().float().flip(1), atol=0.01, rtol=0
    )


def test_a_turn_is_a_rotation_of_at_most_its_degrees_about_the_middle() -> None:
    dot = torch.zeros(200, 65, 65, 3, dtype=torch.uint8)
    dot[:, 31:34, 51:54] = 255  # 20 px right of the middle
    weight = augmented(dot, Augment(rotate=30)).sum(3)
    place = torch.arange(65) - 32
    x, y = ((weight.sum(axis) * place).sum(1) / weight.sum((1, 2)) for axis in (1, 2))
    angle = torch.rad2deg(torch.atan2(y, x))
    torch.testing.assert_close(torch.hypot(x, y), torch.full((200,), 20.0), atol=0.3, rtol=0)
    assert 27 < angle.abs().max() < 30.5
    assert angle.min() < -20 < 20 < angle.max()


def test_a_turn_of_the_hue_changes_colours_and_neither_greys_nor_lightness() -> None:
    turned = augmented(pictures(40), Augment(hue=0.3))
    coloured = pictures(40).float() * 0.2 + 100  # far from the bounds, where nothing is cut
    found = augmented(coloured, Augment(hue=0.3))
    torch.testing.assert_close(found.mean(3), coloured.mean(3), atol=0.01, rtol=0)
    assert (turned - pictures(40).float()).abs().mean() > 5
    grey = pictures().float().mean(3, keepdim=True).expand(-1, -1, -1, 3)
    torch.testing.assert_close(augmented(grey, Augment(hue=0.5)), grey, atol=0.01, rtol=0)


def test_a_third_of_the_circle_makes_red_green_or_blue() -> None:
    red = torch.tensor([90.0, 0, 0]).view(1, 3, 1, 1)
    torch.manual_seed(0)
    hues = _hue_turned(red.expand(300, -1, -1, -1), 1 / 3).flatten(1)
    assert hues[:, 1].max() == pytest.approx(90, abs=2)
    assert hues[:, 2].max() == pytest.approx(90, abs=2)


def test_a_blur_has_the_width_that_was_drawn_for_each_picture_up_to_its_sigma() -> None:
    dot = torch.zeros(200, 41, 41, 3)
    dot[:, 20, 20] = 255
    found = augmented(dot, Augment(blur=1.0, blur_sigma=3.0)).sum(3)
    place = torch.arange(41) - 20.0
    sigma = ((found.sum(1) * place**2).sum(1) / found.sum((1, 2))).sqrt()
    assert sigma.min() < 0.3
    assert 2.8 < sigma.max() < 3.01
    torch.testing.assert_close(found.sum((1, 2)), dot.sum((1, 2, 3)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rotate": 200}, "augment rotate 200: expected 0 to 180"),
        ({"hue": 0.6}, "augment hue 0.6: expected 0 to 0.5"),
        ({"jpeg_worst": 95.0}, "jpeg_worst 95.0: is above jpeg_best 90.0"),
        ({"blur_sigma": 2.0}, "blur_sigma 2.0: needs blur"),
    ],
)
def test_strengths_out_of_range_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Augment(**wrong)
