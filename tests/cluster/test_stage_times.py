"""The account of stages: shares of their slots' time, and the one that limited the run."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pix2score.cluster import stage_times
from pix2score.cluster.stage_times import Slots, limiting_stage, stage_account, totals


def test_totals_add_up_bytes_and_seconds_of_a_piece() -> None:
    rows = pa.table(
        {"num_bytes": [10, 20], "fetch_s": [0.5, 0.25], "decode_s": [1.0, 2.0], "model_s": [0.0, 0.5]}
    )
    assert totals(rows, 0.125) == {"bytes": 30.0, "fetch": 0.75, "decode": 3.0, "model": 0.5, "write": 0.125}
    assert totals(rows.select(["num_bytes"]), 0.0)["decode"] == 0


def test_shares_are_of_all_slots_and_the_rate_is_what_a_stage_alone_would_do() -> None:
    account = stage_account({"decode": 16.0, "model": 4.0}, Slots(decode=2, model=1, write=1), 100, 10.0)
    assert (account["decode"]["share"], account["decode"]["images_per_s"]) == (0.8, 12.5)
    assert (account["model"]["share"], account["model"]["images_per_s"]) == (0.4, 25.0)
    assert account["fetch"] == {"busy_s": 0.0, "slots": 2, "share": 0.0}


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ({"decode": 16.0, "model": 4.0}, "decode limited the run: 2 slots busy 80% of the time"),
        ({"decode": 2.0, "model": 9.5}, "model limited the run: 1 slot busy 95% of the time"),
        ({"fetch": 19.0, "decode": 1.0}, "fetch limited the run"),
        ({"decode": 2.0, "model": 3.0}, "no stage limited the run: start-up"),
    ],
)
def test_the_sentence_names_the_busiest_stage_with_its_evidence(
    measured: dict[str, float], words: str
) -> None:
    sentence = limiting_stage(stage_account(measured, Slots(2, 1, 1), 100, 10.0), 10.0)
    assert sentence.startswith(words)
    assert all(f"{stage} " in sentence for stage in stage_times.STAGES)


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (
            {"decode": 15.0, "model": 16.0, "fetch": 1.0},
            "model limited the run: 4 slots, for all but writing, busy 80% of the time",
        ),
        ({"decode": 2.0, "model": 3.0}, "no stage limited the run: start-up"),
        ({"decode": 2.0, "write": 9.0}, "write limited the run: 1 slot busy 90% of the time"),
    ],
)
def test_stages_that_share_their_slots_are_busy_together(measured: dict[str, float], words: str) -> None:
    slots = Slots(decode=4, model=4, write=1, is_shared=True)
    sentence = limiting_stage(stage_account(measured, slots, 100, 10.0), 10.0, is_shared=True)
    assert sentence.startswith(words)
