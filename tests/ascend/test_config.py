"""Bounds as people write them."""

from __future__ import annotations

import pytest

from pix2score.ascend.config import AscendConfig, share_of
from pix2score.errors import ConfigError


@pytest.mark.parametrize(("bound", "share"), [("8/255", 8 / 255), ("0.5", 0.5), ("1", 1), ("none", 1)])
def test_a_bound_is_a_share_of_the_range_of_a_pixel(bound: str, share: float) -> None:
    assert share_of(bound) == share


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        ("8", "is a share of a pixel's range, at most 1; 8/255?"),
        ("0", "expected a share such as 8/255, above 0 and at most 1, or none"),
        ("-1/255", "expected a share such as 8/255"),
        ("nan", "expected a share such as 8/255"),
        ("8/0", "expected a share such as 8/255"),
        ("large", "expected a share such as 8/255"),
        ("0.5/255", "less than 1/255 is lost when pixels are rounded to 8 bits"),
    ],
)
def test_another_bound_is_refused_with_what_is_meant(bound: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"--bound {bound}: {message}".replace("?", r"\?")):
        AscendConfig(model="m", image=("a.png",), head="h", bound=bound)


def test_no_image_and_no_step_are_refused() -> None:
    with pytest.raises(ConfigError, match="no image given"):
        AscendConfig(model="m", head="h")
    with pytest.raises(ConfigError, match="--steps 0: at least 1"):
        AscendConfig(model="m", image=("a.png",), head="h", steps=0)
