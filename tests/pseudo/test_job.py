"""What a snapshot is sure of becomes a catalog that prepare reads as labels with weights."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pds
import pytest

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.guards import BEING_WRITTEN
from pix2score.catalog.several import open_catalogs
from pix2score.dataset.plan import SplitRule, plan_dataset
from pix2score.dataset.sources import SourceRules
from pix2score.errors import ConfigError, DataError
from pix2score.heads.binary import BinaryHead
from pix2score.heads.classes import ClassesHead
from pix2score.heads.ordered import OrderedHead
from pix2score.heads.spec import HeadSpec
from pix2score.heads.tags import TagsHead
from pix2score.heads.value import ValueHead
from pix2score.pseudo.config import PseudoConfig
from pix2score.pseudo.job import pseudo
from pix2score.snapshots.manifest import publish
from pix2score.snapshots.pieces import Origin, write_piece
from pix2score.snapshots.tables import FAILED, OK, Layout
from pix2score.storage.folder import Folder
from tests.support.builders import embeddings_table, manifest, planned_rows, rewritten, write_catalog
from tests.support.models import cheap_model

NUM = 60
LIKES = OrderedHead(name="likes", column="likes", edges=(10, 30), counts=(9, 5, 2), typical=(4.0, 20.0, 50.0))
LIKED = BinaryHead(name="liked", column="taste", positive=("good",), counts=(50, 50))
SORT = ClassesHead(name="sort", column="sort", names=("cat", "dog"), counts=(5, 4))
TAG = TagsHead(name="tag", column="tags", tags=("sky", "tree", "owl"), counts=(9, 5, 3), num_tagged=12)
BEAUTY = ValueHead(name="beauty", column="beauty", mean=0.0, std=1.0, quantiles=(-1.0, 0.0, 1.0))
HEADS: tuple[HeadSpec, ...] = (LIKES, LIKED, SORT, TAG, BEAUTY)
LAYOUT = Layout(pa.int64(), HEADS, 4, "float16")
RUN = "20261121T080000-00000001"
RNG = np.random.default_rng(0)
SURE = RNG.uniform(0.4, 1.0, NUM).astype(np.float32)
"""How sure the model is of each picture; of the last one it failed."""
BIN = np.arange(NUM) % 3
TAGS = [
    [("sky", 0.99), ("owl", 0.95)], [("tree", 0.97), ("sky", 0.6)], [("sky", 0.8)], []
]  # fmt: skip


def answers() -> dict[str, list[Any]]:
    """Columns of all heads for ``NUM`` pictures."""
    probs = [
        [float(s) if b == k else (1 - float(s)) / 2 for k in range(3)] for s, b in zip(SURE, BIN, strict=True)
    ]
    yes = [float(s) if i % 2 else 1 - float(s) for i, s in enumerate(SURE)]
    tags = [TAGS[i % 4] for i in range(NUM)]
    return {
        "likes_bin": BIN.tolist(),
        "likes_probs": probs,
        "likes_score": [0.5] * NUM,
        "likes_expected": [20.0] * NUM,
        "liked_prob": yes,
        "liked_score": yes,
        "sort_class": ["cat" if i % 3 else "dog" for i in range(NUM)],
        "sort_prob": SURE.tolist(),
        "sort_probs": [[float(s), 1 - float(s)] for s in SURE],
        "tag_tags": [[name for name, _ in found] for found in tags],
        "tag_probs": [[prob for _, prob in found] for found in tags],
        "beauty_value": [0.0] * NUM,
        "beauty_score": [0.5] * NUM,
    }


def scored(place: Path, catalog: str, version: str | None = None) -> str:
    """A folder with one snapshot, of which the last picture failed."""
    is_ok = [True] * (NUM - 1) + [False]
    columns: dict[str, list[Any]] = {
        "illust_id": list(range(NUM)),
        "page": [0] * NUM,
        "status": [OK if ok else FAILED for ok in is_ok],
        "error_code": [None if ok else "NOT_FOUND" for ok in is_ok],
        "error_detail": [None] * NUM,
        "attempts": [1] * NUM,
        "fingerprint": [f"etag:{i}" for i in range(NUM)],
        "run": [RUN] * NUM,
        "embedding_run": [RUN if ok else None for ok in is_ok],
        "scored_at": [datetime(2026, 11, 21, tzinfo=UTC)] * NUM,
    }
    for name, values in answers().items():
        columns[name] = [value if ok else None for value, ok in zip(values, is_ok, strict=True)]
    table = pa.table({f.name: pa.array(columns[f.name], f.type) for f in LAYOUT.scores}, schema=LAYOUT.scores)
    folder = Folder(str(place))
    origin = Origin(run=RUN, model_version="0123456789ab", parent=0)
    embeddings = embeddings_table([(i, 0) for i in range(NUM - 1)], LAYOUT)
    receipt = write_piece(folder, origin, "piece-0", LAYOUT, table, embeddings)
    files = [*rewritten(folder, RUN, [receipt], LAYOUT, NUM).files, receipt.file("embeddings")]
    plain = manifest(RUN, [f for f in files if f], LAYOUT, NUM, 1)
    plain |= {"catalog": {"uri": catalog, "files": []}}
    plain |= {"model_version": version} if version else {}
    publish(folder, 0, plain)
    return str(place)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Scores, and the catalog that was scored."""
    root = tmp_path_factory.mktemp("pseudo")
    columns = {
        "illust_id": range(NUM),
        "uri": [f"{i}.png" for i in range(NUM)],
        "artist_id": [i // 2 for i in range(NUM)],
    }
    catalog = write_catalog(str(root / "catalog"), columns)
    return scored(root / "scores", catalog), catalog


def made(places: tuple[str, str], out: Path, **settings: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the catalog in the order of ids, and the summary. Nothing is validated."""
    given = {"head": "likes", "val_fraction": 0.0, "test_fraction": 0.0, **settings}
    summary = pseudo(PseudoConfig(scores=places[0], out=str(out), **given))
    rows = pds.dataset(str(out), format="parquet", exclude_invalid_files=True).to_table().to_pylist()
    return sorted(rows, key=lambda row: row["illust_id"]), summary


def test_sure_answers_become_labels_with_their_probability_as_weight(
    places: tuple[str, str], tmp_path: Path
) -> None:
    rows, summary = made(places, tmp_path / "out", min_confidence=0.8)
    wanted = [i for i in range(NUM - 1) if SURE[i] >= 0.8]
    assert [row["illust_id"] for row in rows] == wanted
    for row in rows:
        i = row["illust_id"]
        assert row["likes"] == (4.0, 20.0, 50.0)[BIN[i]]
        assert row["weight"] == pytest.approx(SURE[i])
        assert (row["uri"], row["artist_id"], row["page"]) == (f"{places[1]}/{i}.png", str(i // 2), 0)
    assert summary["rows"] == {
        "scored": NUM - 1,
        "not_in_catalog": 0,
        "below_min_confidence": NUM - 1 - len(wanted),
        "in_val_or_test": 0,
        "over_per_class": 0,
        "chosen": len(wanted),
        "unreadable": 0,
    }


def test_of_each_class_the_surest_are_taken(places: tuple[str, str], tmp_path: Path) -> None:
    rows, summary = made(places, tmp_path / "out", min_confidence=0.6, per_class=3)
    for k, typical in enumerate((4.0, 20.0, 50.0)):
        best = sorted((i for i in range(NUM - 1) if BIN[i] == k), key=lambda i: -SURE[i])[:3]
        assert {row["illust_id"] for row in rows if row["likes"] == typical} == set(best)
    assert summary["classes"] == {"0": 3, "1": 3, "2": 3}


def test_yes_and_no_are_texts_that_prepare_reads_so(places: tuple[str, str], tmp_path: Path) -> None:
    rows, _ = made(places, tmp_path / "out", head="liked", min_confidence=0.9)
    assert {row["illust_id"] for row in rows} == {i for i in range(NUM - 1) if SURE[i] >= 0.9}
    assert all(row["taste"] == ("good" if row["illust_id"] % 2 else "not good") for row in rows)
    assert all(row["weight"] == pytest.approx(SURE[row["illust_id"]], abs=1e-6) for row in rows)


def test_classes_are_named(places: tuple[str, str], tmp_path: Path) -> None:
    rows, summary = made(places, tmp_path / "out", head="sort", per_class=2)
    assert summary["classes"] == {"cat": 2, "dog": 2}
    assert all(row["sort"] == ("cat" if row["illust_id"] % 3 else "dog") for row in rows)


def test_tags_are_those_that_are_sure_and_weigh_as_the_least_sure(
    places: tuple[str, str], tmp_path: Path
) -> None:
    rows, summary = made(places, tmp_path / "out", head="tag", min_confidence=0.9)
    found = {row["illust_id"]: (row["tags"], round(row["weight"], 2)) for row in rows}
    assert found == {
        i: ((["sky", "owl"], 0.95), (["tree"], 0.97))[i % 4] for i in range(NUM - 1) if i % 4 < 2
    }
    assert summary["classes"] == {"owl": 15, "tree": 15}


def test_pictures_that_would_measure_a_model_are_left_out(places: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows, summary = made(places, out, min_confidence=0.5, val_fraction=0.3, test_fraction=0.3)
    assert summary["rows"]["in_val_or_test"] > 5
    place = write_catalog(
        str(tmp_path / "true"), {"illust_id": [999], "uri": ["x"], "likes": [5], "artist_id": [4]}
    )
    catalogs = open_catalogs([place, str(out)], Columns(), [LIKES], {"weight": "weight"})
    rules = SourceRules(has_source=True, has_weight=True)
    rule = SplitRule(val_fraction=0.3, test_fraction=0.3, max_pages=4)
    plan = Folder(str(tmp_path / "plan"))
    parts, counts, _ = plan_dataset(catalogs, [LIKES], rule, plan, "plan", (), None, rules)
    assert counts.sources["1"] == {"train": len(rows)}
    planned = {row["illust_id"]: row for row in planned_rows(plan, parts)}
    for row in rows:
        found = planned[row["illust_id"]]
        assert (found["uri"], found["likes_label"]) == (row["uri"], row["likes"])
        assert found["weight"] == pytest.approx(row["weight"])


def test_embedded_images_go_along_and_names_stay_those_of_the_catalog(tmp_path: Path) -> None:
    columns = {"work": range(NUM), "picture": [b"image %d" % i if i != 3 else None for i in range(NUM)]}
    catalog = write_catalog(str(tmp_path / "catalog"), columns)
    scores = scored(tmp_path / "scores", catalog)
    summary = pseudo(
        PseudoConfig(
            scores=scores,
            head="likes",
            out=str(tmp_path / "out"),
            min_confidence=0.5,
            val_fraction=0,
            test_fraction=0,
            columns=Columns(id="work", image="picture"),
        )
    )
    rows = (
        pds.dataset(str(tmp_path / "out"), format="parquet", exclude_invalid_files=True)
        .to_table()
        .to_pylist()
    )
    wanted = {i for i in range(NUM - 1) if SURE[i] >= 0.5}
    assert {row["work"]: row["picture"] for row in rows} == {i: b"image %d" % i for i in wanted - {3}}
    assert summary["rows"]["unreadable"] == int(3 in wanted)


def test_a_head_without_classes_names_those_that_have_some(places: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kind value has no classes; .*labels: likes, liked, sort, tag"):
        made(places, tmp_path / "out", head="beauty")
    with pytest.raises(ConfigError, match="'lieks' is not known"):
        made(places, tmp_path / "out", head="lieks")


def test_labels_for_the_very_model_that_gave_them_need_force(tmp_path: Path, places: tuple[str, str]) -> None:
    from pix2score.model.card import load_card

    model = cheap_model(tmp_path / "model")
    scores = scored(tmp_path / "scores", places[1], version=load_card(model).version)
    with pytest.raises(ConfigError, match="a model's own labels teach it little.*--force"):
        made((scores, places[1]), tmp_path / "out", student=model)
    assert made((scores, places[1]), tmp_path / "out", student=model, force=True)[0]
    assert made(places, tmp_path / "other", student=model)[0]


def test_nothing_sure_says_how_far_the_answers_reach(places: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="of 59 scored pictures 59 are in the catalog, 0 reach a probability of 1"
    ):
        made(places, tmp_path / "out", min_confidence=1.0)
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_another_catalog_there_is_not_written_over(places: tuple[str, str], tmp_path: Path) -> None:
    made(places, tmp_path / "out")
    with pytest.raises(DataError, match="holds a catalog already"):
        made(places, tmp_path / "out")


def test_a_run_that_died_while_it_wrote_leaves_no_catalog_and_the_next_one_makes_it_whole(
    places: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pix2score.pseudo.job.PART_ROWS", 5)
    out = tmp_path / "out"
    (out / "part-00002.parquet" / "in the way").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        made(places, out, min_confidence=0.5)
    assert sorted(path.name for path in out.glob("part-0000[01]*")) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    (out / "part-00002.parquet" / "in the way").rmdir()
    (out / "part-00002.parquet").rmdir()
    with pytest.raises(DataError, match=r"catalog .* is not whole: jobs\.pseudo .* run that again"):
        open_catalog(str(out), Columns())
    rows, _ = made(places, out, min_confidence=0.95)
    assert {row["illust_id"] for row in rows} == {i for i in range(NUM - 1) if SURE[i] >= 0.95}
    assert open_catalog(str(out), Columns()).files
    with pytest.raises(DataError, match="holds a catalog already"):
        made(places, out)


def test_another_catalog_beside_parts_of_a_dead_run_is_not_removed(
    places: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_catalog(str(out), {"illust_id": [1]}, "mine.parquet")
    Folder(str(out)).publish(BEING_WRITTEN, b"")
    with pytest.raises(DataError, match="holds a catalog already"):
        made(places, out)
    assert (out / "mine.parquet").exists()
