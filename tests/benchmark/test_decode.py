"""Decoding is timed on every kind of picture, and its pixels are near those of a whole decode."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest

from pix2score.benchmark.config import BenchmarkConfig
from pix2score.benchmark.decode import (
    CASES,
    THUMBNAIL,
    DecodeTiming,
    decode_table,
    on_one_core,
    pillow,
    through,
)
from pix2score.benchmark.forward import random_model
from pix2score.benchmark.job import benchmark
from pix2score.benchmark.pictures import SETS, encoded
from pix2score.images.decode import to_rgb
from pix2score.images.decoder import Decoder
from pix2score.images.preprocess import Preprocess


@pytest.mark.slow
def test_decoding_is_compared_on_every_kind_of_picture_with_the_pixels_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        result = benchmark(BenchmarkConfig(stage="decode", num_images=4, runs=1, input_size=64))
    cases = {(t["kind"], t["form"], t["side"]): t for t in result["decode"]}
    assert cases.keys() == {(kind, *case) for kind in SETS for case in (*CASES, THUMBNAIL)}
    assert all(t["ours_per_s"] > 0 and t["pillow_per_s"] > 0 for t in cases.values())
    for (_, form, _), t in cases.items():  # PNG and WebP are decoded whole, as in Pillow: one rounding apart
        assert t["mean_difference"] < (4 if form == "JPEG" else 0.6)
    assert "sparse line art" in caplog.text


def test_more_pictures_than_a_child_takes_at_once_go_through_it_in_order() -> None:
    rng, preprocess = np.random.default_rng(4), Preprocess(size=32)
    files = [encoded(SETS["sparse line art"](rng, 40 + side, 40)) for side in range(20)]
    child = Decoder(preprocess)
    assert list(through(child, files)) == [to_rgb(data, preprocess).tobytes() for data in files]
    assert [len(pixels) for pixels in through(child, files[:1])] == [32 * 32 * 3]
    child.close()


def test_owner_and_child_are_kept_on_one_core_for_as_long_as_they_are_compared() -> None:
    child, cores = Decoder(Preprocess(size=32)), os.sched_getaffinity(0)
    child(encoded(SETS["sparse line art"](np.random.default_rng(5), 40, 40)))
    assert child.pid
    with on_one_core(child.pid):
        assert os.sched_getaffinity(0) == os.sched_getaffinity(child.pid)
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == cores
    child.close()


def test_the_average_cost_of_a_child_is_without_thumbnails() -> None:
    timings = [
        DecodeTiming("photographs", form, side, 1.0, 1.0, 1.0, cost, 0.0, 0.0)
        for (form, side), cost in zip((*CASES, THUMBNAIL), (0.01, 0.02, 0.03, 0.04, 0.05, 0.9), strict=True)
    ]
    assert "in a child: +3.0% CPU" in decode_table(timings)


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize(
    "side", [500, *(pytest.param(side, marks=pytest.mark.slow) for side in (1200, 3000))]
)
def test_pixels_at_224_are_within_2_of_a_whole_decode_and_4_in_the_worst_picture(
    kind: str, side: int
) -> None:
    rng = np.random.default_rng(3)
    files = [encoded(SETS[kind](rng, side, side)) for _ in range(3)]
    apart = [
        np.abs(to_rgb(data, Preprocess(size=224)).astype(int) - pillow(data, 224)).mean() for data in files
    ]
    assert np.mean(apart) <= 2
    assert max(apart) <= 4


@pytest.mark.slow
def test_a_trained_model_says_how_far_the_probabilities_are_apart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random_model("resnet18", 32, str(tmp_path / "model"))
    with caplog.at_level(logging.INFO):
        found = benchmark(
            BenchmarkConfig(stage="decode", model=str(tmp_path / "model"), num_images=4, runs=1)
        )["decode"]
    assert all(0 <= timing["probability_difference"] < 0.1 for timing in found)
    assert all(timing["probability_difference"] < 1e-3 for timing in found if timing["form"] == "PNG")
    assert "decode and resize to 32 px" in caplog.text
