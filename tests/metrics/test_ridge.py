"""The ridge sees colour and outline, and its sums merge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pix2score.metrics.ridge import PENALTIES, PENALTY, HeadSums, Ridge, answers, features
from tests.support.torch_helpers import COUNT_HEAD, RGB, pixels


def coloured(num: int, seed: int, size: int = 32) -> tuple[RGB, np.ndarray]:  # type: ignore[type-arg]
    """Pictures whose redness says their bin."""
    bins = np.random.default_rng(seed).integers(0, 4, num)
    images = pixels(num, seed, size) // 4
    images[..., 0] += (bins * 45).astype(np.uint8)[:, None, None]
    return images, bins


def test_it_learns_what_colour_tells() -> None:
    (train, train_bins), (test, test_bins) = coloured(300, 1), coloured(100, 2)
    head = replace(COUNT_HEAD, counts=(75, 75, 75, 75))
    ridge = Ridge([head])
    ridge.add(features(train), {"bookmark": train_bins})
    scores = answers(ridge.solve()["bookmark"], features(test))
    for penalty in range(len(PENALTIES)):
        assert np.corrcoef(scores[:, penalty], test_bins)[0, 1] > 0.9


@pytest.mark.parametrize("size", [32, 64, 100, 224])
def test_features_are_finite_in_a_small_range_and_as_many_at_every_size(size: int) -> None:
    found = features(pixels(3, 1, size - size % 4))
    assert found.shape == (3, 648)
    assert np.isfinite(found).all()
    assert 0 <= found.min() <= found.max() <= 1.5


def test_sums_of_two_workers_merge_to_those_of_one() -> None:
    images, bins = coloured(60, 3)
    bins[:7] = -1
    parts = [Ridge([COUNT_HEAD]) for _ in range(3)]
    for ridge, rows in zip(parts, (slice(None), slice(0, 20), slice(20, None)), strict=True):
        ridge.add(features(images[rows]), {"bookmark": bins[rows]})
    whole, merged = parts[0], parts[1].merge(parts[2])
    np.testing.assert_allclose(merged.solve()["bookmark"], whole.solve()["bookmark"], rtol=1e-6, atol=1e-7)
    assert whole.sums["bookmark"].num == 53


def test_a_head_without_labels_predicts_nothing() -> None:
    assert not HeadSums.zeros(5).solve().any()
    assert (
        HeadSums.zeros(5).best_penalty(HeadSums.zeros(5)) == HeadSums.zeros(5).best_penalty(None) == PENALTY
    )


def test_features_tell_colour_and_direction() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::4] = 255
    red, blue = np.zeros((2, 64, 64, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    across, down, a, b = features(np.stack([stripes, stripes.transpose(1, 0, 2), red, blue]))
    assert np.abs(across - down).max() > 0.2
    assert np.abs(a - b).max() > 0.5


def test_the_fit_is_that_of_all_rows_at_once_and_follows_what_it_can_see() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 40))
    y = 3 + 2 * x[:, 0] - x[:, 5] + rng.normal(size=3000) * 0.1
    whole, parts = HeadSums.zeros(40), HeadSums.zeros(40)
    whole.add(x, y)
    for start in range(0, 3000, 700):
        parts.add(x[start : start + 700], y[start : start + 700])
    np.testing.assert_allclose(whole.solve(), parts.solve(), atol=1e-9)
    found = answers(whole.solve([0.1]), x)[:, 0]
    assert np.corrcoef(found, y)[0, 1] > 0.99
    assert found.mean() == pytest.approx(y.mean(), abs=1e-6)


@pytest.mark.parametrize("shape", [(), (2,)], ids=["one number", "several"])
def test_the_penalty_is_that_whose_answers_err_least_on_the_validation_split(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)

    def drawn(num: int, noise: float) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
        x = rng.normal(size=(num, 30))
        y = x[:, 0] + noise * rng.normal(size=num)
        return x, np.stack([y, -y], axis=1) if shape else y

    chosen = []
    for noise in (0.01, 10.0):
        learnt, judged = HeadSums.zeros(30, shape), HeadSums.zeros(30, shape)
        x, y = drawn(300, noise)
        learnt.add(*drawn(100, noise))
        judged.add(x, y)
        design = np.concatenate([np.ones((300, 1)), x], axis=1)
        errors = [((design @ weights.T - y) ** 2).sum() for weights in learnt.solve()]
        assert learnt.best_penalty(judged) == PENALTIES[int(np.argmin(errors))]
        chosen.append(learnt.best_penalty(judged))
    assert chosen[0] == PENALTIES[0]
    assert chosen[1] > 3
