"""prepare, train, score; the labels move; refit, score: the scores follow, and no picture is read for it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.stats import spearmanr

from pix2score import read_scores
from pix2score.prepare.config import PrepareConfig
from pix2score.prepare.job import prepare
from pix2score.refit.config import RefitConfig
from pix2score.refit.job import refit
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.verify import verify
from pix2score.train.config import TrainConfig
from pix2score.train.job import train
from tests.support.chain import BACKBONE, INPUT_SIZE

pytestmark = pytest.mark.usefixtures("ray_session")
NUM_ROWS = 1_600
HEAD = {"name": "uses", "column": "uses", "kind": "bins", "edges": [10, 20, 40, 80]}


def write_catalog(folder: Path, colour_N3: npt.NDArray[np.uint8], channel: int, *, pictures: bool) -> str:
    """Pictures of one colour each, used as often as a channel of it says; or the labels alone."""
    folder.mkdir()

    def png(colour: Any) -> bytes:
        out = io.BytesIO()
        Image.new("RGB", (INPUT_SIZE, INPUT_SIZE), tuple(map(int, colour))).save(out, "PNG")
        return out.getvalue()

    columns: dict[str, Any] = {
        "illust_id": np.arange(NUM_ROWS),
        "etag": [f"{i:08x}" for i in range(NUM_ROWS)],
        "uses": colour_N3[:, channel].astype(np.int64) // 2,
        "image": [png(colour) if pictures else b"gone" for colour in colour_N3],
    }
    pq.write_table(pa.table(columns), folder / "catalog.parquet")
    return str(folder)


@pytest.mark.slow
def test_scores_follow_labels_that_moved_without_a_picture(tmp_path: Path) -> None:
    colour_N3 = np.random.default_rng(0).integers(0, 256, (NUM_ROWS, 3), dtype=np.uint8)
    before = write_catalog(tmp_path / "before", colour_N3, 0, pictures=True)
    after = write_catalog(tmp_path / "after", colour_N3, 2, pictures=False)
    dataset, model, scores = (str(tmp_path / name) for name in ("dataset", "model", "scores"))
    prepare(PrepareConfig(catalog=before, out=dataset, image_size=INPUT_SIZE, heads=(HEAD,)))
    train(
        TrainConfig(
            data=dataset, out=model, backbone=BACKBONE, input_size=INPUT_SIZE, epochs=1, num_workers=0
        )
    )
    score(ScoreConfig(catalog=before, model=model, out=scores))
    found = refit(RefitConfig(scores=scores, catalog=after, model=model, out=str(tmp_path / "refitted")))
    assert found["test"]["uses"]["spearman"] > 0.6 > found["test_before"]["uses"]["spearman"] + 0.3
    done = score(ScoreConfig(catalog=after, model=str(tmp_path / "refitted"), out=scores, max_drift=100.0))
    assert (done["heads"], done["failed"], done["bytes"]) == (NUM_ROWS, 0, 0)
    verify(VerifyConfig(scores=scores, catalog=after))
    blue = [
        spearmanr(
            read_scores(scores, snapshot=number).to_table().sort_by("illust_id")["uses_score"],
            colour_N3[:, 2],
        ).statistic
        for number in (1, 2)
    ]
    assert blue[1] > 0.6 > blue[0] + 0.3
