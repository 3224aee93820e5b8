"""The failure of a picture whose answer cannot be used."""

from __future__ import annotations

from pix2score.errors import ImageFailure


def non_finite(*, is_embedding: bool) -> ImageFailure:
    """``is_embedding``: whether it is the embedding that is not finite as it is stored."""
    if is_embedding:
        detail = "the embedding holds NaN or more than it is stored in, as float16 ends at 65,504"
    else:
        detail = "the model's output is NaN or infinite"
    return ImageFailure("NONFINITE", detail)
