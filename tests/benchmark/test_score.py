"""Every contender scores every image, and all of them answer alike."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pyarrow.dataset import dataset

from pix2score import read_scores
from pix2score.benchmark.forward import random_model
from pix2score.benchmark.pictures import write_photographs
from pix2score.benchmark.score import OURS, PEERS, command, linked, present, time_score


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
