"""Answers of a model are told apart by what stands in the shards, by key, without Ray."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pix2score.align.answers import _by_value, _pairs, check_column
from pix2score.dataset.card import dataset_schema, open_dataset
from pix2score.dataset.sources import SourceRules
from pix2score.errors import DataError
from pix2score.evaluate.answers import AnswerRows
from pix2score.evaluate.sample import Sample
from pix2score.evaluate.stages import decode_for_evaluation
from pix2score.heads.distribution import DistributionHead
from pix2score.heads.ordered import OrderedHead
from pix2score.heads.spec import HeadSpec
from pix2score.heads.value import ValueHead
from pix2score.model.card import load_card
from pix2score.model.predictor import load_predictor
from tests.support.torch_helpers import PREPROCESS, pixels, save_network, settled_model

NUM = 40
BEAUTY = ValueHead(name="beauty", column="beauty", mean=1.0, std=2.0, quantiles=(-9.0, 1.0, 9.0))
LIKES = OrderedHead(name="likes", column="likes", edges=(10, 20), counts=(5, 5, 5), typical=(5.0, 15.0, 25.0))
VOTES = DistributionHead(name="votes", column="votes", values=(1.0, 2.0, 4.0))
HEADS: tuple[HeadSpec, ...] = (BEAUTY, LIKES, VOTES)
LABELS: dict[str, Any] = {
    "beauty": [None if i % 5 == 0 else i / 7 for i in range(NUM)],
    "likes": [None if i % 4 == 0 else i for i in range(NUM)],
    "votes": [[i % 3 + 1.0, 2.0, 1.0] for i in range(NUM)],
}
SOURCES = ["club" if i % 3 else "web" for i in range(NUM)]


def png(image: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    place, network = str(tmp_path_factory.mktemp("model")), settled_model(HEADS)  # type: ignore[arg-type]
    save_network(place, network, heads=HEADS)
    return place


def dataset_at(root: Path, *, has_source: bool = True) -> str:
    """One shard, of split test."""
    types = [("beauty", pa.float64()), ("likes", pa.int64()), ("votes", pa.list_(pa.float32(), 3))]
    schema = dataset_schema(pa.int64(), HEADS, types, SourceRules(has_source=has_source).fields())
    columns: dict[str, Any] = {
        "illust_id": pa.array(range(NUM)),
        "page": pa.array([0] * NUM, pa.int32()),
        "group": pa.array([f"g{i // 2}" for i in range(NUM)]),
        "source": pa.array(SOURCES),
        "image": pa.array([png(image) for image in pixels(NUM, seed=3)], pa.binary()),
    }
    for head, (_, kind) in zip(HEADS, types, strict=True):
        label = pa.array(LABELS[head.name], kind)
        columns |= {f"{head.name}_label": label, head.target_field().name: head.encode(label)}
    (root / "split=test").mkdir(parents=True)
    pq.write_table(
        pa.table({n: columns[n] for n in schema.names}).cast(schema), root / "split=test/a.parquet"
    )
    card = {
        "format": 1,
        "heads": [head.to_dict() for head in HEADS],
        "rows": {"train": 0, "val": 0, "test": NUM},
        "shards": [{"split": "test", "path": "split=test/a.parquet", "rows": NUM}],
        "dropped": {},
    }
    (root / "dataset.json").write_text(json.dumps(card))
    return str(root)


@pytest.mark.parametrize("head", HEADS, ids=[head.name for head in HEADS])
def test_labels_and_answers_in_the_labels_unit_are_told_apart_by_source(
    model: str, tmp_path: Path, head: HeadSpec
) -> None:
    dataset, card = open_dataset(dataset_at(tmp_path / "data")), load_card(model)
    shard = pq.read_table(tmp_path / "data/split=test/a.parquet", partitioning=None)
    decoded = decode_for_evaluation(shard, heads=HEADS, preprocesses=[PREPROCESS], ridges={}, sample=Sample())
    answered = AnswerRows([model], [0], batch_size=16, device="cpu", num_threads=1)(decoded)
    order = np.random.default_rng(0).permutation(NUM)
    found = _by_value(dataset, ["val", "test"], "source", _pairs(answered.take(order), head, card))
    answer = load_predictor(model, batch_size=16, device="cpu", num_threads=1).predict(pixels(NUM, seed=3))
    column = {"beauty": "beauty_value", "likes": "likes_expected", "votes": "votes_value"}[head.name]
    said = head.columns(answer.heads[head.name])[column].to_numpy()
    votes = np.array(LABELS["votes"])
    label = {
        "beauty": np.array(LABELS["beauty"], dtype=float),
        "likes": np.array(LABELS["likes"], dtype=float),
        "votes": votes @ [1.0, 2.0, 4.0] / votes.sum(1),
    }[head.name]
    assert list(found) == ["club", "web"]
    for source, rows in found.items():
        wanted = [i for i in range(NUM) if SOURCES[i] == source and not np.isnan(label[i])]
        np.testing.assert_allclose(rows.label, label[wanted], rtol=1e-6)
        np.testing.assert_allclose(rows.said, said[wanted], rtol=1e-4)
        assert len(np.unique(rows.group)) == len({i // 2 for i in wanted})


def test_a_dataset_without_the_column_says_how_it_gets_one(tmp_path: Path) -> None:
    check_column(open_dataset(dataset_at(tmp_path / "with")), "source")
    with pytest.raises(DataError, match="no column source: .* several --catalog, or for --source-column"):
        check_column(open_dataset(dataset_at(tmp_path / "without", has_source=False)), "source")
