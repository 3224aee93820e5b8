"""refit: heads follow labels that moved, from stored embeddings, and the trunk stays the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from pix2score.errors import ConfigError, DataError
from pix2score.heads.ordered import OrderedHead
from pix2score.model.answers import EmbeddingPredictor
from pix2score.model.folder import load_model, trunk_weights
from pix2score.refit.config import RefitConfig
from pix2score.refit.job import refit
from pix2score.summaries import RefitSummary
from tests.support.builders import write_catalog
from tests.support.stored import stored_night
from tests.support.torch_helpers import save_network, settled_model

NUM_ROWS = 2_000
FAILED = (3, 77)
VALUE = {"name": "beauty", "column": "beauty", "kind": "value"}
HEADS = (
    OrderedHead(name="bookmark", column="bookmarks", edges=(1, 3, 10, 30)),
    OrderedHead(name="sanity", column="sanity", kind="levels", edges=(2,)),
)


@dataclass(frozen=True)
class Stored:
    """A model, what its trunk left in a scores folder, and what the embeddings know of."""

    model: str
    scores: str
    signal_N: npt.NDArray[np.float64]

    def config(self, place: Path, **more: Any) -> RefitConfig:
        return RefitConfig(
            scores=self.scores,
            model=self.model,
            catalog=str(place / "catalog"),
            out=str(place / "new"),
            **more,
        )

    def write_labels(self, place: Path, signal_N: npt.NDArray[np.float64], **more: Any) -> None:
        """Counts and levels that follow ``signal_N``; each group has three pictures."""
        columns = {
            "illust_id": np.arange(NUM_ROWS),
            "artist_id": np.arange(NUM_ROWS) // 3,
            "uri": [f"{i}.png" for i in range(NUM_ROWS)],
            "bookmarks": np.exp(2 + 1.2 * signal_N).astype(np.int64),
            "sanity": np.where(signal_N > 0, 4, 1),
            "beauty": signal_N,
        }
        write_catalog(str(place / "catalog"), pa.table({**columns, **more}))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    place = tmp_path_factory.mktemp("stored")
    heads = tuple(
        h.fitted(edges=h.edges, counts=[1] * h.num_bins, typical=list(range(h.num_bins))) for h in HEADS
    )
    network = settled_model(heads)
    save_network(str(place / "model"), network, heads=heads)
    rng = np.random.default_rng(0)
    embedding = rng.random((NUM_ROWS, network.embedding_dim)).astype(np.float16)
    signal = (embedding.astype(np.float64) - 0.5) @ rng.standard_normal(network.embedding_dim)
    card, _ = load_model(str(place / "model"))
    stored_night(str(place / "scores"), card, embedding, failed=FAILED)
    return Stored(str(place / "model"), str(place / "scores"), signal / signal.std())


@pytest.fixture(scope="module")
def followed(stored: Stored, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, RefitSummary]:
    """The model refitted to labels that follow the signal, and what was said of it."""
    place = tmp_path_factory.mktemp("followed")
    stored.write_labels(place, stored.signal_N)
    return str(place / "new"), refit(stored.config(place))


def test_heads_follow_the_labels_and_the_trunk_stays(
    stored: Stored, followed: tuple[str, RefitSummary]
) -> None:
    place, found = followed
    assert sum(found["rows"].values()) == NUM_ROWS - len(FAILED)
    for name, main in (("bookmark", "spearman"), ("sanity", "kappa")):
        numbers, before = found["test"][name], found["test_before"][name]
        assert numbers[main] > 0.75, name
        assert abs(before[main]) < 0.4, name
        assert numbers["nll"] < numbers["prior_nll"] < before["nll"], name
    (old, old_weights), (new, weights) = (load_model(each) for each in (stored.model, place))
    assert new.trunk_version == old.trunk_version
    assert new.version != old.version == found["refitted_version"]
    for name, array in trunk_weights(old_weights).items():
        np.testing.assert_array_equal(weights[name], array)
    assert new.about["refit"]["of"] == old.version


def test_labels_that_turn_round_turn_the_heads_round(
    stored: Stored, followed: tuple[str, RefitSummary], tmp_path: Path
) -> None:
    stored.write_labels(tmp_path, -stored.signal_N)
    found = refit(Stored(followed[0], stored.scores, stored.signal_N).config(tmp_path))
    assert found["test_before"]["bookmark"]["spearman"] < -0.75 < 0.75 < found["test"]["bookmark"]["spearman"]


def test_more_rows_than_the_sample_are_all_learnt_from(stored: Stored, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    stored.write_labels(tmp_path, stored.signal_N + rng.standard_normal(NUM_ROWS))
    few = refit(stored.config(tmp_path, sample_rows=1000))
    (tmp_path / "new").rename(tmp_path / "few")
    all_ = refit(stored.config(tmp_path))
    assert few["rows"]["train"] == all_["rows"]["train"] > 1500
    for name in ("bookmark", "sanity"):
        assert abs(few["val"][name]["nll"] - all_["val"][name]["nll"]) < 0.02


def test_a_hidden_layer_learns_what_no_line_says(stored: Stored, tmp_path: Path) -> None:
    bent = np.abs(stored.signal_N) - np.abs(stored.signal_N).mean()
    stored.write_labels(tmp_path, bent)
    linear = refit(stored.config(tmp_path))
    (tmp_path / "new").rename(tmp_path / "linear")
    found = refit(stored.config(tmp_path, hidden=32, epochs=60))
    card, _ = load_model(str(tmp_path / "new"))
    assert (card.hidden, found["penalties"]) == (32, {})
    assert found["test"]["bookmark"]["spearman"] > linear["test"]["bookmark"]["spearman"] + 0.2
    EmbeddingPredictor(*load_model(str(tmp_path / "new")))


def test_other_heads_may_be_learnt_on_the_same_trunk(stored: Stored, tmp_path: Path) -> None:
    stored.write_labels(tmp_path, stored.signal_N)
    found = refit(stored.config(tmp_path, heads=(VALUE,)))
    card, _ = load_model(str(tmp_path / "new"))
    assert [head.name for head in card.heads] == ["beauty"]
    assert found["test"]["beauty"]["pearson"] > 0.8
    assert found["test_before"] == {}


def test_embeddings_of_another_trunk_are_refused_by_name(stored: Stored, tmp_path: Path) -> None:
    stored.write_labels(tmp_path, stored.signal_N)
    card, _ = load_model(stored.model)
    rows = np.zeros((10, card.embedding_dim), np.float16)
    stored_night(str(tmp_path / "other"), card, rows, trunk_version="0" * 12)
    other = Stored(stored.model, str(tmp_path / "other"), stored.signal_N)
    with pytest.raises(DataError, match=rf"of trunk 0{{12}}, model .* has trunk {card.trunk_version}"):
        refit(other.config(tmp_path))


def test_too_few_rows_are_refused_by_number(stored: Stored, tmp_path: Path) -> None:
    labels = [5 if i < 600 else None for i in range(NUM_ROWS)]
    some = pa.array([n if n is None else i % 40 for i, n in enumerate(labels)], pa.int64())
    stored.write_labels(tmp_path, stored.signal_N, bookmarks=some, sanity=some)
    with pytest.raises(DataError, match=r"only 5\d\d rows of the train split .*1000 are needed"):
        refit(stored.config(tmp_path))


def test_a_label_column_that_is_missing_is_named(stored: Stored, tmp_path: Path) -> None:
    stored.write_labels(tmp_path, stored.signal_N)
    with pytest.raises(DataError, match="likes"):
        refit(stored.config(tmp_path, heads=({**VALUE, "column": "likes"},)))
    assert not (tmp_path / "new").exists()


def test_a_head_of_comparisons_is_refused() -> None:
    with pytest.raises(ConfigError, match="preferred learns from comparisons"):
        RefitConfig(
            scores="s", catalog="c", model="m", out="o", heads=({"name": "preferred", "kind": "preference"},)
        )
