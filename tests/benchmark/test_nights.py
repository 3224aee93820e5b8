"""Whole nights are measured in Ray tasks, every step as it is known, and nothing twice."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from pix2score.benchmark import nights
from pix2score.benchmark.config import BenchmarkConfig
from pix2score.benchmark.generated import etags, ids, texts
from pix2score.benchmark.job import benchmark
from pix2score.benchmark.night_steps import NightStep, read_steps
from pix2score.benchmark.nights import LAST, NIGHTS, time_nights
from pix2score.errors import ConfigError


def test_generated_texts_are_those_that_formatting_gives() -> None:
    numbers = np.array([0, 7, 10**11 + 3, 255])
    assert ids(numbers).to_pylist() == [f"illustration{n:012}" for n in numbers]
    version = np.array([False, True, False, True])
    expected = [f"etag:{int(new):08x}{n:024x}" for n, new in zip(numbers, version, strict=True)]
    assert etags(numbers, version, b"etag:").to_pylist() == expected
    assert texts(b"a", (numbers[:0], 3, 10)).to_pylist() == []


def step(name: str, seconds: float = 1.0) -> NightStep:
    return NightStep(2000, "ranges", 1, name, seconds, 1.0, 100, 100)


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [step("first plan"), step("first plan", 2.0), step(LAST)]
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(asdict(one)) + "\n" for one in lines))
    assert [one.seconds for one in read_steps(tmp_path)] == [2.0, 1.0]
    monkeypatch.setattr(nights, "ONE_TASK_ROWS", 0)
    assert [one.step for one in time_nights(tmp_path, (2000,), (1,))] == ["first plan", LAST]
    assert lines[0].line().split()[:3] == ["0.002", "M", "ranges"]


def test_no_workers_at_all_are_refused() -> None:
    with pytest.raises(ConfigError, match="workers 0: at least 1"):
        BenchmarkConfig(workers=(0,))


@pytest.mark.slow
def test_a_night_is_measured_step_by_step_in_one_task_and_by_ranges(tmp_path: Path) -> None:
    place = str(tmp_path / "nights")
    result = benchmark(BenchmarkConfig(stage="plan", rows=(4000,), workers=(1,), place=place))
    steps = [NightStep(**plain) for plain in result["nights"]]
    names = [f"{night} {what}" for night in NIGHTS for what in ("plan", "publish")] + ["verify", LAST]
    assert [(one.way, one.step) for one in steps] == [
        (way, name) for way in ("one task", "ranges") for name in names
    ]
    assert all(one.seconds > 0 and one.task_peak_mib > 10 and one.driver_peak_mib > 10 for one in steps)
    assert [one.table_mib for one in steps if "publish" in one.step] == [1] * 6
    assert [path.name for path in (tmp_path / "nights").iterdir()] == ["steps.jsonl"]
