"""When a run is stopped for its failures."""

from __future__ import annotations

from collections import Counter

import pytest

from pix2score.errors import LimitError
from pix2score.score.account import Tally
from pix2score.snapshots.pieces import Origin, Receipt

ALL_MISSING = "first 200 images are all missing"


def receipt(
    rows: int,
    failed: dict[str, int],
    retried: int = 0,
    again: dict[str, int] | int = 0,
    measured: dict[str, float] | None = None,
) -> Receipt:
    """A piece with these failures; ``again`` of rows that had failed before."""
    by_code = again if isinstance(again, dict) else {}
    number = sum(by_code.values()) if by_code else again
    assert isinstance(number, int)
    return Receipt(
        piece="p",
        origin=Origin(run="r", model_version="m", parent=0),
        id_type="int64",
        embedding_dtype="float16",
        rows=rows,
        failed=failed,
        files=(),
        measured=measured or {},
        retried=retried,
        failed_again=number,
        failed_again_by_code=by_code,
    )


@pytest.mark.parametrize(
    "piece",
    [
        receipt(200, {"NOT_FOUND": 200}),
        receipt(250, {"NOT_FOUND": 200, "CORRUPT": 50}, 50, {"CORRUPT": 50}),
        receipt(250, {"NOT_FOUND": 200, "CORRUPT": 50}, 50, 50),
        receipt(201, {"NOT_FOUND": 200}, 1),
        receipt(260, {"NOT_FOUND": 150, "TIMEOUT": 100}, 60, {"TIMEOUT": 50}),
    ],
)
def test_a_run_whose_first_images_are_all_out_of_reach_is_stopped_whatever_retries_do_beside_them(
    piece: Receipt,
) -> None:
    with pytest.raises(LimitError, match=ALL_MISSING):
        Tally(0.05, 100_000).add(piece)


@pytest.mark.parametrize(
    "piece",
    [
        receipt(200, {"NOT_FOUND": 199}),
        receipt(200, {"NOT_FOUND": 150, "CORRUPT": 50}),
        receipt(250, {"NOT_FOUND": 200, "CORRUPT": 50}, 50, {"NOT_FOUND": 50}),
    ],
)
def test_one_image_that_came_is_enough(piece: Receipt) -> None:
    Tally(0.05, 100_000).add(piece)


def test_failures_that_were_resumed_do_not_hide_a_store_that_is_down() -> None:
    with pytest.raises(LimitError, match=ALL_MISSING):
        Tally(0.05, 100_000, failed=Counter(NOT_FOUND=300)).add(receipt(200, {"NOT_FOUND": 200}))


@pytest.mark.parametrize(("num_keys", "stops"), [(20, True), (21, False)])
def test_a_snapshot_without_a_single_answer_is_none_however_small(num_keys: int, stops: bool) -> None:
    tally = Tally(0.05, 20)
    tally.add(receipt(20, {"FORBIDDEN": 15, "NOT_FOUND": 5}))
    if stops:
        with pytest.raises(LimitError, match="first 20 images are all missing.*15 FORBIDDEN, 5 NOT_FOUND"):
            tally.check_end(num_keys)
    else:
        tally.check_end(num_keys)


def test_a_snapshot_of_failures_that_all_had_failed_before_is_published_again() -> None:
    tally = Tally(0.05, 0)
    tally.add(receipt(130, {"NOT_FOUND": 130}, 130, {"NOT_FOUND": 130}))
    tally.check_end(130)


def test_what_a_lost_round_failed_counts_only_as_far_as_it_is_resumed() -> None:
    tally = Tally(0.05, 1000)
    tally.add(receipt(300, {"TIMEOUT": 100}))
    tally.begin_again({"CORRUPT": 10}, 0)
    tally.add(receipt(100, {"TIMEOUT": 40}))
    assert (tally.failed, tally.rows) == (Counter(CORRUPT=10, TIMEOUT=40), 400)
