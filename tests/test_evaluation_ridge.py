"""The ridge reference: features that see colour and edges, and a fit that does not depend on batches."""

from __future__ import annotations

import numpy as np
import pytest

from pix2score.evaluation_ridge import NUM_FEATURES, RidgeSums, features
from tests.torch_helpers import pixels


@pytest.mark.parametrize("num", [0, 1, 5])
def test_features_have_one_row_per_image(num: int) -> None:
    found = features(pixels(num, size=64))
    assert found.shape == (num, NUM_FEATURES)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_features_tell_colour_and_direction() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::4] = 255
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    a, b, c = features(np.stack([stripes, stripes.transpose(1, 0, 2), red]))
    assert np.abs(a - b).max() > 0.05
    assert c[-6] == 1
    assert c[-5] == 0


def test_the_fit_is_that_of_all_rows_at_once_and_follows_what_it_can_see() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, NUM_FEATURES)).astype(np.float32)
    y = 3 + 2 * x[:, 0] - x[:, 5] + rng.normal(size=3000) * 0.1
    whole, parts = RidgeSums(), RidgeSums()
    whole.add(x, y)
    for start in range(0, 3000, 700):
        parts.add(x[start : start + 700], y[start : start + 700])
    a, b = whole.fit(), parts.fit()
    assert a is not None
    assert b is not None
    np.testing.assert_allclose(a.weights, b.weights, atol=1e-9)
    assert np.corrcoef(a.predict(x), y)[0, 1] > 0.99
    assert a.predict(x).mean() == pytest.approx(y.mean(), abs=1e-6)


def test_without_rows_there_is_no_regression() -> None:
    assert RidgeSums().fit() is None
