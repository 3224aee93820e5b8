"""What an evaluation gathers of a head of tags: all rows in sums, as many as fit for intervals."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pix2score.evaluate.gather import Evaluation
from pix2score.heads.tags import TagsHead
from pix2score.model.card import ModelCard
from pix2score.report.evaluated_head import head_section
from pix2score.storage.arrow import fixed_lists
from tests.support.torch_helpers import PREPROCESS

NUM_TAGS, ROWS, BATCHES = 60, 40, 10
NAMES = tuple(f"tag {i}" for i in range(NUM_TAGS))
HEAD = TagsHead(name="tag", column="tags", tags=NAMES, counts=tuple(range(90, 30, -1)), num_tagged=300)
CARD = ModelCard(
    backbone="resnet18",
    heads=(HEAD,),
    preprocess=PREPROCESS,
    embedding_dim=512,
    temperatures={},
    weights_sha256="",
    calibrations={"tag": {"slope": 1.0, "offset": 0.0, "threshold": 0.5, "thresholds": [0.4] * NUM_TAGS}},
)


def answered(seed: int) -> pa.Table:
    """Rows of ``AnswerRows``; the first of them is not tagged."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-0.5, 2, (ROWS, NUM_TAGS)).astype(np.float32)
    tags = [
        [NAMES[t] for t in np.flatnonzero(rng.random(NUM_TAGS) < 1 / (1 + np.exp(-row)))] for row in logits
    ]
    labels = pa.array([None, *tags[1:]], pa.list_(pa.string()))
    return pa.table(
        {
            "illust_id": np.arange(ROWS) + seed * ROWS,
            "page": np.zeros(ROWS, np.int32),
            "group": np.arange(ROWS) + seed * ROWS,
            "tag_label": labels,
            "tag_ids": HEAD.encode(labels),
            "tag_outputs_0": fixed_lists(logits),
            "thumbnail": pa.array([b"jpeg", *[None] * (ROWS - 1)], pa.binary()),
        }
    )


def evaluation(max_bytes: int) -> Evaluation:
    found = Evaluation(CARD, (HEAD,), max_bytes)
    for seed in range(BATCHES):
        found.add(answered(seed))
    return found


def test_of_wide_heads_fewer_rows_are_kept_and_all_are_counted() -> None:
    few, all_rows = evaluation(3 * ROWS * NUM_TAGS * 4), evaluation(10**9)
    assert 0 < len(few.answers(HEAD).truth) <= 3 * (ROWS - 1)
    assert len(all_rows.answers(HEAD).truth) == BATCHES * (ROWS - 1)
    part, whole = few.metrics()["tag"], all_rows.metrics()["tag"]
    assert part.num_labelled == whole.num_labelled == BATCHES * (ROWS - 1)
    for name in ("micro_f1", "map", "precision_5", "nll", "ece"):
        assert part.numbers[name] == whole.numbers[name], name
    interval = whole.interval["map"]
    assert interval is not None
    assert interval.low < (whole.numbers["map"] or 0) < interval.high


def test_the_thresholds_of_the_model_are_what_its_f1_by_tag_is_of() -> None:
    found = evaluation(10**9)
    answers = found.answers(HEAD)
    said, true = answers.outputs >= np.log(0.4 / 0.6), answers.truth == 1
    f1 = 2 * (said & true).sum(0) / (said.sum(0) + true.sum(0))
    assert found.metrics()["tag"].numbers["macro_f1"] == pytest.approx(f1.mean())


def test_the_page_shows_tags_with_pictures_and_what_each_image_truly_has() -> None:
    found = evaluation(10**9)
    section = head_section(HEAD, found.metrics()["tag"], found.details()["tag"], found.sampled())
    titles = [gallery.title for gallery in section.galleries]
    assert sum(title.startswith("Good tag 'tag ") for title in titles) == 3
    assert sum(title.startswith("Bad tag 'tag ") for title in titles) == 3
    assert len(section.charts) == 2
    picture = section.galleries[0].pictures[0]
    assert picture.lines[0].startswith("said tag ")
    assert picture.lines[1] == "true no label"
