"""The benchmarks measure real work: what they publish is sound, and every contender scores every image."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow.dataset import dataset

from pix2score import read_scores
from pix2score.benchmark import plan as benchmark_plan
from pix2score.benchmark.config import BenchmarkConfig
from pix2score.benchmark.decode import CASES, pillow
from pix2score.benchmark.forward import random_model
from pix2score.benchmark.job import benchmark, score_table
from pix2score.benchmark.pictures import SETS, encoded, write_photographs
from pix2score.benchmark.plan import time_plan
from pix2score.benchmark.score import OURS, PEERS, ScoreTiming, command, linked, present, time_score
from pix2score.errors import ConfigError
from pix2score.images.decode import to_rgb
from pix2score.images.preprocess import Preprocess
from pix2score.model.predictor import Predictor
from pix2score.snapshots.manifest import live


def test_one_percent_changed_and_one_per_mille_new_and_removed(tmp_path: Path) -> None:
    timing = time_plan(tmp_path, 20_000)
    assert (timing.rows, timing.to_score) == (20_000, 220)
    manifest = live(str(tmp_path / "scores")).manifest
    plan = manifest["plan"]
    assert (manifest["snapshot"], plan["removed"], plan["new"], plan["changed"]) == (2, 20, 20, 200)
    ids = read_scores(str(tmp_path / "scores")).to_table(columns=["illust_id"]).column(0).to_pylist()
    assert ids == sorted(set(ids))
    assert len(ids[0]) == 24
    assert timing.plan_peak_mib > 10


def test_a_first_night_is_timed_beside_the_later_one_with_its_temporary_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_plan, "FILE_ROWS", 8_000)
    before = tempfile.gettempdir()
    timing = time_plan(tmp_path, 20_000)
    steps = (timing.plan, timing.rewrite, timing.first.plan, timing.first.sort, timing.first.merge)
    assert all(step.seconds > 0 and step.cpu_s > 0 and step.peak_mib > 10 for step in steps)
    assert (timing.plan.seconds, timing.rewrite.peak_mib) == (timing.plan_s, timing.rewrite_peak_mib)
    assert timing.plan.disk_bytes_per_row > 0 and timing.first.plan.disk_bytes_per_row > 0
    files = [str(path) for path in (tmp_path / "first" / "scores").rglob("*.parquet")]
    assert dataset(files).count_rows() == 20_000
    assert tempfile.gettempdir() == before


def test_the_job_gives_every_size_and_the_machine(tmp_path: Path) -> None:
    result = benchmark(BenchmarkConfig(stage="plan", rows=(1000, 2000), out=str(tmp_path)))
    assert [timing["rows"] for timing in result["plan"]] == [1000, 2000]
    assert result["machine"]["cores"] >= 1
    assert (tmp_path / "benchmark.json").exists()
    assert benchmark_plan.FILE_ROWS == 250_000


@pytest.mark.slow
def test_decoding_is_compared_on_every_kind_of_picture_with_the_pixels_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        result = benchmark(BenchmarkConfig(stage="decode", num_images=4, runs=1, input_size=64))
    cases = {(t["kind"], t["form"], t["side"]): t for t in result["decode"]}
    assert len(cases) == len(SETS) * len(CASES)
    assert all(t["ours_per_s"] > 0 and t["pillow_per_s"] > 0 for t in cases.values())
    for (_, form, _), t in cases.items():  # PNG and WebP are decoded whole, as in Pillow: one rounding apart
        assert t["mean_difference"] < (4 if form == "JPEG" else 0.6)
    assert "sparse line art" in caplog.text


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("side", [500, 1200, 3000])
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


def run(*flags: str) -> dict[str, Any]:
    """The job's summary, from a process of its own: it sets torch's threads, on which other tests depend."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.benchmark", *flags],
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )
    loaded: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return loaded


@pytest.mark.slow
def test_the_bare_forward_pass_is_timed_in_every_way() -> None:
    result = run("--stage=model", "--input-size=32", "--batch-size=4", "--runs=1")
    ways = {t["way"]: t["images_per_s"] for t in result["model"]}
    assert {"torch, eager", "predictor, onnx"} <= set(ways) or torch.cuda.is_available()
    assert min(ways.values()) > 0


@pytest.mark.parametrize("backbone", ["resnet18", "resnet101"])
def test_a_random_model_answers_within_float16(backbone: str) -> None:
    card, weights = random_model(backbone, 64)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    prediction = Predictor(card, weights, batch_size=4).predict(pixels)
    assert prediction.finite.all()
    assert 0 < np.abs(prediction.embedding).max() < 60_000


@pytest.mark.slow
def test_what_one_image_costs_is_given_by_cause() -> None:
    found = run("--stage=start", "--input-size=32", "--runs=1")["start"]
    assert list(found["causes_s"]) == [
        "import",
        "check_inputs",
        "start_ray",
        "plan",
        "first_piece",
        "publish",
        "end",
    ]
    assert all(seconds >= 0 for seconds in found["causes_s"].values())
    assert sum(found["causes_s"].values()) == pytest.approx(found["seconds"], abs=0.1)


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


@pytest.mark.endurance
@pytest.mark.timeout(600)
def test_every_contender_scores_every_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    random_model("resnet18", 32, str(tmp_path / "model"))
    write_photographs(tmp_path / "images", 8, 96, 72)
    names = [OURS, *present(PEERS)]
    assert {OURS, "ray-recipe", "dataloader"} <= set(names)
    probs = {}
    (tmp_path / "linked").mkdir()
    all_images = linked(tmp_path / "linked" / "all", sorted((tmp_path / "images").iterdir()))
    for name in names:
        out = tmp_path / name
        subprocess.run(
            command(name, all_images, str(tmp_path / "model"), out),
            check=True,
            capture_output=True,
            timeout=200,
        )
        rows = read_scores(str(out)).to_table() if name == OURS else dataset(out).to_table().sort_by("path")
        assert rows.num_rows == 8
        probs[name] = np.stack(rows.column("bookmark_probs").to_pylist())
    for found in probs.values():  # resized a little differently
        np.testing.assert_allclose(found, probs[OURS], atol=0.02)
    timings = time_score(tmp_path / "linked", tmp_path / "images", str(tmp_path / "model"), ["dataloader"], 1)
    assert [t.contender for t in timings] == [OURS, "dataloader"]
    assert all(t.images == 8 and t.seconds > 0 for t in timings)
    with caplog.at_level(logging.WARNING):
        PEERS["absent"] = ("absent", "no_such_package")
        assert "absent" not in present(PEERS)
        del PEERS["absent"]
    assert "absent is left out: it needs the package no_such_package" in caplog.text


@pytest.mark.endurance
@pytest.mark.timeout(600)
def test_training_is_timed_beside_a_ready_batch_and_the_original_files() -> None:
    found = run(
        "--stage=train", "--num-images=60", "--side=320", "--input-size=32", "--batch-size=8", "--runs=1"
    )["train"]
    assert found["share"] == pytest.approx(found["job_per_s"] / found["ready_per_s"], abs=0.02)
    assert min(found.values()) > 0


def test_an_unknown_peer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="peer spark is not known; one of ray-recipe, dataloader, daft, limit"
    ):
        BenchmarkConfig(peers="spark,limit")


def test_the_table_says_how_many_times_as_fast_ours_is() -> None:
    ours = ScoreTiming(OURS, 100, 10.0, 9.0, 11.0, 5.0, 20.0)
    other = ScoreTiming("daft", 100, 25.0, 24.0, 26.0, 5.0, 5.0)
    table = score_table([ours, other], {"forward_per_s": 50.0, "decode_per_s": 40.0, "both_per_s": 22.2})
    assert "2.50x" in table
    assert "90%" in table
