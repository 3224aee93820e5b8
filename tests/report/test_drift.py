"""Drift tells how far a night moved from the one before."""

from __future__ import annotations

import numpy as np
import pytest

from pix2score.report.drift import drift_lines, drift_sentence, drifts
from pix2score.report.night import NightStats
from pix2score.snapshots.drift import PSI_DRIFTED
from tests.support.builders import HEADS


@pytest.mark.parametrize(
    ("value", "mood", "words"),
    [(0.02, "good", "as the night before"), (0.15, "", "moved"), (0.4, "bad", "drifted")],
)
def test_drift_is_said_plainly(value: float, mood: str, words: str) -> None:
    line = drift_sentence("bookmark", value)
    assert line.mood == mood
    assert words in line.text


def night_of(bins: list[int], fresh: list[int]) -> NightStats:
    head = HEADS[0].name
    return NightStats(HEADS[:1], "run", bins={head: np.array(bins)}, fresh={head: np.array(fresh)})


def test_a_few_new_images_that_drift_show_although_the_table_does_not() -> None:
    before = night_of([30_000, 40_000, 30_000], [0, 0, 0])
    drifted = night_of([30_010, 40_010, 30_380], [10, 10, 380])
    drift = drifts(drifted, before)
    whole, fresh = drift["bookmark"]
    assert whole is not None
    assert fresh is not None
    assert whole < 0.001 < PSI_DRIFTED < fresh
    first, second = drift_lines(drifted, drift)
    assert (first.mood, second.mood) == ("good", "bad")
    assert second.text.startswith("bookmark, the 400 images scored this night: drifted")
    steady = night_of([30_120, 40_160, 30_120], [120, 160, 120])
    assert len(drift_lines(steady, drifts(steady, before))) == 1
    few = night_of([30_000, 40_000, 30_020], [0, 0, 20])
    assert drifts(few, before)["bookmark"][1] is None
