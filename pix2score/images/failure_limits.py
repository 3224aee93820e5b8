"""When so many images of a run failed that its result is not what was meant, and which failures another
attempt tries again."""

from __future__ import annotations

from collections.abc import Mapping

from pix2score.errors import FETCH_ERROR_CODES, LimitError

MIN_FAILED_TO_STOP = 100
"""A run with no more failures than this goes on whatever their share: on a small catalog a share says
little."""
ALL_MISSING_ROWS = 200
"""So many images tried, and none could be fetched: the place is wrong or down, not the images."""


def check_any_reached(failed: Mapping[str, int], num_done: int) -> None:
    """Raise ``LimitError`` if not one of ``num_done`` images could be fetched.

    However few they are: for a run that publishes the first snapshot.
    """
    if num_done and sum(failed.get(code, 0) for code in FETCH_ERROR_CODES) == num_done:
        what = "the first image is" if num_done == 1 else f"the first {num_done} images are all"
        raise LimitError(
            f"{what} missing, refused or out of reach ({by_code(failed)}): nothing was published; is "
            "--catalog the right one, is --image-root missing, do the credentials reach the images, is their "
            "store up?"
        )


def by_code(failed: Mapping[str, int]) -> str:
    """``12 NOT_FOUND, 3 CORRUPT``: the most common first."""
    return ", ".join(
        f"{number} {code}" for code, number in sorted(failed.items(), key=lambda item: -item[1]) if number
    )


def check_failed(failed: Mapping[str, int], num_done: int, num_planned: int, max_failed: float) -> None:
    """Raise ``LimitError`` if too many of ``num_planned`` images failed by now (code -> number), or all
    ``num_done`` are out of reach."""
    if num_done >= ALL_MISSING_ROWS:
        check_any_reached(failed, num_done)
    check_share(sum(failed.values()), num_done, num_planned, max_failed, failed)


def check_share(
    num_failed: int, num_done: int, num_planned: int, max_failed: float, told: Mapping[str, int]
) -> None:
    """Raise ``LimitError`` if ``num_failed`` are too many of all that is planned, as the rest may still
    succeed; ``told`` by code."""
    if num_failed > MIN_FAILED_TO_STOP and num_failed > max_failed * num_planned:
        raise LimitError(
            f"{num_failed} of {num_planned} images failed ({by_code(told)}), over --max-failed "
            f"{max_failed:g}: nothing was published, the "
            f"{num_done} images done so far are kept; run again when the cause is mended, or with a greater "
            "--max-failed"
        )
