"""When so many images of a run failed that its result is not what was meant, and which failures another attempt tries again."""

from __future__ import annotations

from collections.abc import Mapping

from pix2score.errors import FETCH_ERROR_CODES, LimitError

MIN_FAILED_TO_STOP = 100
"""A run with no more failures than this goes on whatever their share: on a small catalog a share says little."""
ALL_MISSING_ROWS = 200
"""So many images tried, and none could be fetched: the place is wrong or down, not the images."""
TRIED_AGAIN = (*FETCH_ERROR_CODES, "CRASHED")
"""Codes that another attempt may not meet again: they say more of the hour than of the bytes."""


def check_any_reached(failed: Mapping[str, int], num_done: int) -> None:
    """Raise ``LimitError`` if not one of ``num_done`` images could be fetched, however few they are: for a run that publishes the first."""
    if num_done and sum(failed.get(code, 0) for code in FETCH_ERROR_CODES) == num_done:
        raise LimitError(
            f"none of the {num_done} images could be fetched ({_by_code(failed)}): nothing was published; is --catalog the right one, is "
            f"--image-root missing, do the credentials reach the images, is their store up?"
        )


def _by_code(failed: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {code}" for code, number in sorted(failed.items(), key=lambda item: -item[1]))


def check_failed(failed: Mapping[str, int], num_done: int, num_planned: int, max_failed: float) -> None:
    """Raise ``LimitError`` if too many of ``num_planned`` images failed by now (code -> number), or all ``num_done`` are out of reach."""
    total = sum(failed.values())
    codes = _by_code(failed)
    if num_done >= ALL_MISSING_ROWS and sum(failed.get(code, 0) for code in FETCH_ERROR_CODES) == num_done:
        raise LimitError(
            f"the first {num_done} images are all missing, refused or out of reach ({codes}): nothing was published; is --catalog the "
            f"right one, is --image-root missing, do the credentials reach the images, is their store up?"
        )
    if total > MIN_FAILED_TO_STOP and total > max_failed * num_planned:
        raise LimitError(
            f"{total} of {num_planned} images failed ({codes}), over --max-failed {max_failed:g}: nothing was published, the "
            f"{num_done} images done so far are kept; run again when the cause is mended, or with a greater --max-failed"
        )
