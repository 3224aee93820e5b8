"""Ways to alter pictures: how they are written, and what they do, checked against Pillow and numpy."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from pix2score.errors import ConfigError
from pix2score.evaluate.config import EvaluateConfig
from pix2score.evaluate.perturbations import Perturbation, perturbations
from tests.support.torch_helpers import RGB, pixels

KEY = (7, 1)


def picture() -> Image.Image:
    """Neither square nor of a size that halves evenly."""
    noise = np.random.default_rng(3).integers(-9, 9, (48, 48, 3))
    image = (pixels(1, seed=2, size=48)[0] + noise).clip(0, 255).astype(np.uint8)
    return Image.fromarray(image[:41, :37])


def altered(text: str, key: tuple[int | str, int] = KEY) -> RGB:
    (found,) = perturbations([text])
    return np.asarray(found(picture(), key))


def test_a_range_is_four_even_steps_the_mildest_first() -> None:
    found = perturbations(["jpeg=90..30, blur=1..3", "resize=.5,noise=.02,resize=.9"])
    strengths: dict[str, list[float]] = {}
    for each in found:
        strengths.setdefault(each.name, []).append(each.strength)
    assert strengths == {
        "jpeg": [90, 70, 50, 30],
        "blur": [1, pytest.approx(5 / 3), pytest.approx(7 / 3), 3],
        "resize": [0.9, 0.5],
        "noise": [0.02],
    }
    assert perturbations(["blur=3..1"]) == perturbations(["blur=1..3", "blur=1"])
    assert perturbations([]) == ()


def test_each_way_is_that_of_pillow_and_numpy() -> None:
    image = picture()
    out = io.BytesIO()
    image.save(out, "JPEG", quality=40)
    np.testing.assert_array_equal(altered("jpeg=40"), np.asarray(Image.open(out)))
    np.testing.assert_array_equal(altered("blur=2"), np.asarray(image.filter(ImageFilter.GaussianBlur(2))))
    small = image.resize((18, 20), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(
        altered("resize=.5"), np.asarray(small.resize((37, 41), Image.Resampling.BILINEAR))
    )
    moved = altered("noise=.02").astype(float) - np.asarray(image)
    inside = (np.asarray(image) > 30) & (np.asarray(image) < 225)
    assert moved[inside].std() == pytest.approx(0.02 * 255, rel=0.05)
    assert abs(moved[inside].mean()) < 0.4


@pytest.mark.parametrize("text", ["blur=0", "noise=0", "resize=1"])
def test_no_strength_leaves_the_picture_as_it_is(text: str) -> None:
    np.testing.assert_array_equal(altered(text), np.asarray(picture()))


def test_noise_is_the_same_for_a_key_and_another_for_others() -> None:
    np.testing.assert_array_equal(altered("noise=.1"), altered("noise=.1"))
    assert (altered("noise=.1") != altered("noise=.1", (7, 2))).mean() > 0.5
    assert (altered("noise=.1", ("7", 1)) == altered("noise=.1")).all()


@pytest.mark.parametrize("text", ["jpeg=90..10", "blur=1..6", "resize=.9...2", "noise=.01...2"])
def test_a_stronger_alteration_moves_pixels_more(text: str) -> None:
    image = picture()
    away = [np.abs(np.asarray(each(image, KEY)).astype(int) - image).mean() for each in perturbations([text])]
    assert len(away) == 4
    assert away == sorted(away)
    assert away[-1] > 1.2 * away[0] > 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("jpg=90", r"jpg=90: no such way to alter pictures; did you mean jpeg\? known are jpeg, blur, "
         r"resize, noise, as in --perturb jpeg=90\.\.30,blur=1\.\.3,resize=\.5,noise=\.02"),
        ("jpeg=90,", "--perturb : no such way"),
        ("blur", "--perturb blur: needs a strength, such as blur=1"),
        ("jpeg=200", r"jpeg=200: expected a whole number from 1 to 95 \(quality of JPEG\), or a range"),
        ("jpeg=89.5", "expected a whole number"),
        ("blur=a..3", r"--perturb blur=a\.\.3: expected a number from 0 to 50"),
        ("resize=2", "expected a number from 0.01 to 1"),
        ("noise=nan", "expected a number from 0 to 1"),
        ("noise=.1..", "expected a number from 0 to 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_that_says_what_can(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        EvaluateConfig(model="m", data="d", out="o", perturb=(text,))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_perturbation_leaves_the_picture_given_as_it_was() -> None:
    image = picture()
    for name, strength in (("jpeg", 10), ("blur", 3), ("resize", 0.2), ("noise", 0.3)):
        assert Perturbation(name, strength)(image, KEY).size == image.size
    np.testing.assert_array_equal(np.asarray(image), np.asarray(picture()))
