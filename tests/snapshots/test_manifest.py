"""Snapshots: pieces count once, one creator wins, and plain readers see exactly what was published."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pix2score
from pix2score.errors import ConflictError, DataError, StorageError
from pix2score.heads.ordered import OrderedHead
from pix2score.snapshots.manifest import live, live_number, new_run_id, publish
from pix2score.snapshots.pieces import Origin, Receipt, read_receipt, staged_receipts, write_piece
from pix2score.snapshots.read import read_embeddings, read_scores
from pix2score.snapshots.tables import LISTED_VERSION, Layout, layout_from_dict
from pix2score.storage.folder import Folder
from tests.support.builders import (
    HEADS,
    LAYOUT,
    MODEL_VERSION,
    embedding_of,
    embeddings_table,
    publish_night,
    rewritten,
    scores_table,
)

KEYS = [(3, 0), (1, 1), (2**40, 0), (1, 0), (2, 0)]
FAILED = [(2, 0)]
RUN = "20261121T080000-00000001"
ORIGIN = Origin(run=RUN, model_version=MODEL_VERSION, parent=0)


def test_what_was_published_is_read_back_sorted_by_key(place: str) -> None:
    snapshot = publish_night(place, KEYS, failed=FAILED)
    assert (snapshot.number, live(place)) == (1, snapshot)
    scores = read_scores(place).to_table()
    assert scores.schema.equals(LAYOUT.scores)
    assert scores.sort_by([("illust_id", "ascending"), ("page", "ascending")]).equals(scores)
    assert scores.equals(scores_table(sorted(KEYS), RUN, FAILED))
    embeddings = read_embeddings(place).to_table()
    assert embeddings.schema.names == [*LAYOUT.embeddings.names, "run"]
    found = {(row["illust_id"], row["page"]): row["embedding"] for row in embeddings.to_pylist()}
    assert found == {key: embedding_of(key, 4) for key in KEYS if key not in FAILED}


def test_the_package_itself_offers_the_readers(tmp_path: Any) -> None:
    publish_night(str(tmp_path), KEYS)
    assert (
        pix2score.read_scores(str(tmp_path)).count_rows()
        == pix2score.read_embeddings(str(tmp_path)).count_rows()
        == 5
    )


@pytest.mark.parametrize(
    "layout", [Layout(pa.string(), HEADS, 4, "float16"), Layout(pa.int64(), HEADS, 7, "float32")]
)
def test_a_layout_survives_json_and_says_how_files_look(tmp_path: Any, layout: Layout) -> None:
    assert layout_from_dict(json.loads(json.dumps(layout.to_dict()))) == layout
    keys = [("b", 0), ("a", 1)] if layout.id_type == pa.string() else [(5, 0), (4, 1)]
    publish_night(str(tmp_path), keys, layout=layout)
    assert read_scores(str(tmp_path)).to_table().schema.equals(layout.scores)
    assert read_embeddings(str(tmp_path)).to_table().select([0, 1, 2]).schema.equals(layout.embeddings)
    assert read_scores(str(tmp_path)).to_table()["illust_id"].to_pylist() == sorted(key[0] for key in keys)


def test_a_night_whose_every_image_failed_has_no_embeddings(place: str) -> None:
    publish_night(place, KEYS, failed=KEYS)
    assert read_embeddings(place).to_table().num_rows == 0
    assert read_embeddings(place).schema.names == [*LAYOUT.embeddings.names, "run"]
    assert read_scores(place).count_rows() == 5


def test_a_reader_never_lists_the_folder(place: str) -> None:
    publish_night(place, KEYS)
    folder = Folder(place)
    folder.publish(f"scores/{RUN}/part-99999.parquet", b"rubbish of a run that died")
    folder.publish(f"embeddings/{RUN}/part-rubbish.parquet", b"rubbish")
    assert (read_scores(place).count_rows(), read_embeddings(place).count_rows()) == (5, 5)


def test_a_retried_piece_counts_once_and_leaves_nothing_behind(place: str) -> None:
    folder = Folder(place)
    tables = scores_table(KEYS, RUN, FAILED), embeddings_table([k for k in KEYS if k not in FAILED])
    first = write_piece(folder, ORIGIN, "piece-000000", LAYOUT, *tables)
    before = folder.entries()
    second = write_piece(folder, ORIGIN, "piece-000000", LAYOUT, *tables)
    assert second == first
    assert folder.entries() == before
    assert {e.path for e in before} == {f"staged/{RUN}/piece-000000.json", *(f.path for f in first.files)}


def test_a_receipt_says_what_the_piece_holds(place: str) -> None:
    folder = Folder(place)
    receipt = write_piece(
        folder, ORIGIN, "piece-7", LAYOUT, scores_table(KEYS, RUN, FAILED), embeddings_table(KEYS[:4])
    )
    assert read_receipt(folder.read(f"staged/{RUN}/piece-7.json")) == receipt
    assert staged_receipts(folder) == [receipt]
    assert (receipt.rows, receipt.failed, receipt.origin) == (5, {"NOT_FOUND": 1}, ORIGIN)
    assert [(f.table, f.rows, f.bytes) for f in receipt.files] == [
        ("scores", 5, folder.entry(receipt.files[0].path).size),
        ("embeddings", 4, folder.entry(receipt.files[1].path).size),
    ]


def staged(folder: Folder, *pieces: list[tuple[int, int]]) -> list[Receipt]:
    return [
        write_piece(folder, ORIGIN, f"piece-{i}", LAYOUT, scores_table(keys, RUN), embeddings_table([]))
        for i, keys in enumerate(pieces)
    ]


@pytest.mark.parametrize(
    ("pieces", "num_expected", "message"),
    [
        ([[(1, 0), (2, 0)]], 3, "2 staged rows with 2 keys, planned 3"),
        ([[(1, 0), (2, 0)]], 1, "2 staged rows with 2 keys, planned 1"),
        ([[(1, 0), (2, 0)], [(2, 0)]], 3, "3 staged rows with 2 keys, planned 3"),
        ([[(1, 0), (2, 0)], [(2, 0)]], 2, "3 staged rows with 2 keys, planned 2"),
    ],
)
def test_pieces_that_are_not_the_plan_are_never_assembled(
    tmp_path: Any, pieces: list[list[tuple[int, int]]], num_expected: int, message: str
) -> None:
    folder = Folder(str(tmp_path))
    paths = staged(folder, *pieces)
    with pytest.raises(StorageError, match=message):
        rewritten(folder, RUN, paths, LAYOUT, num_expected)
    assert folder.entries("scores") == []


def test_assembled_rows_are_sorted_over_all_pieces(place: str) -> None:
    folder = Folder(place)
    (file,) = rewritten(
        folder, RUN, staged(folder, [(9, 0), (1, 1)], [(5, 0)], [(1, 0), (-3, 0)]), LAYOUT, 5
    ).files
    table = pq.read_table(pa.BufferReader(folder.read(file.path)))
    assert list(zip(table["illust_id"].to_pylist(), table["page"].to_pylist(), strict=True)) == [
        (-3, 0),
        (1, 0),
        (1, 1),
        (5, 0),
        (9, 0),
    ]
    assert (file.rows, file.run, file.first_key) == (5, RUN, (-3, 0))


def test_of_two_runs_that_publish_one_wins_and_the_other_conflicts(place: str) -> None:
    folder = Folder(place)
    publish(folder, 0, {"run": "first"})
    with pytest.raises(ConflictError, match="snapshot 1 .* run again"):
        publish(folder, 0, {"run": "second"})
    assert live(place).manifest["run"] == "first"
    publish(folder, 1, {"run": "second"})
    assert (live(place).number, live(place).manifest["run"], live(place).manifest["parent"]) == (
        2,
        "second",
        1,
    )


def test_the_live_snapshot_is_the_one_with_the_greatest_number(place: str) -> None:
    folder = Folder(place)
    for number in (9, 10, 100_000_000):
        publish(folder, number - 1, {"run": str(number)})
    folder.publish("snapshots/zzz.json", b"{}")
    folder.publish("snapshots/old/00000999.json", b"{}")
    assert live_number(folder) == 100_000_000
    assert live(place).manifest["run"] == "100000000"


def test_no_snapshot_is_a_data_error_naming_the_place(place: str) -> None:
    assert live_number(Folder(place)) == 0
    for read in (live, read_scores, read_embeddings):
        with pytest.raises(DataError, match=f"no scores at {place}"):
            read(place)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a snapshot manifest"),
        (b"[1]", "not a snapshot manifest"),
        (b"{}", "not a snapshot manifest"),
        (b"{", "not a snapshot manifest"),
    ],
)
def test_a_manifest_that_is_none_is_named(place: str, content: bytes, message: str) -> None:
    Folder(place).publish("snapshots/00000001.json", content)
    with pytest.raises(DataError, match=rf"00000001\.json is {message}"):
        live(place)


def test_a_manifest_of_another_schema_version_is_refused(place: str) -> None:
    Folder(place).publish(
        "snapshots/00000001.json", json.dumps({"schema_version": LISTED_VERSION + 1}).encode()
    )
    with pytest.raises(DataError, match=f"schema version {LISTED_VERSION + 1}"):
        live(place)


def test_duckdb_polars_and_pyarrow_read_the_same_rows_from_the_listed_files(tmp_path: Any) -> None:
    import polars as pl  # a second that other tests need not wait for

    snapshot = publish_night(str(tmp_path), KEYS, failed=FAILED)
    paths = {
        t: [str(tmp_path / f.path) for f in snapshot.files if f.table == t] for t in ("scores", "embeddings")
    }
    columns = ["illust_id", "page", "status", "bookmark_bin", "bookmark_probs", "run"]
    arrow = read_scores(str(tmp_path)).to_table(columns=columns).to_pylist()
    assert arrow[0]["bookmark_probs"] == [0.25, 0.75, 0.0]
    found = duckdb.sql(
        f"SELECT {', '.join(columns)} FROM read_parquet({paths['scores']}) ORDER BY illust_id, page"
    ).fetchall()
    assert [
        dict(zip(columns, (list(v) if isinstance(v, tuple) else v for v in row), strict=True))
        for row in found
    ] == arrow
    assert pl.read_parquet(paths["scores"], columns=columns).select(columns).to_dicts() == arrow

    vectors = {
        (r["illust_id"], r["page"]): r["embedding"]
        for r in read_embeddings(str(tmp_path)).to_table().to_pylist()
    }
    rows = duckdb.sql(
        f"SELECT illust_id, page, embedding::FLOAT[] FROM read_parquet({paths['embeddings']})"
    ).fetchall()
    assert {(i, p): list(vector) for i, p, vector in rows} == vectors
    assert {
        (r["illust_id"], r["page"]): r["embedding"] for r in pl.read_parquet(paths["embeddings"]).to_dicts()
    } == vectors


def test_scores_join_their_embeddings_by_key_and_run(tmp_path: Any) -> None:
    snapshot = publish_night(str(tmp_path), KEYS, failed=FAILED)
    runs = {f.path.split("/")[1] for f in snapshot.files if f.table == "embeddings"}
    assert runs == set(read_scores(str(tmp_path)).to_table()["run"].to_pylist()) == {RUN}


def test_a_probability_column_has_one_entry_per_bin(tmp_path: Any) -> None:
    layout = Layout(pa.int64(), (OrderedHead(name="view", column="views", size=15),), 4, "float16")
    publish_night(str(tmp_path), KEYS, layout=layout)
    assert read_scores(str(tmp_path)).schema.field("view_probs").type == pa.list_(pa.float32(), 15)


def test_run_ids_are_never_equal_and_sort_by_time() -> None:
    early = {new_run_id("20261121T080000") for _ in range(1000)}
    assert len(early) == 1000
    assert max(early) < new_run_id("20261121T080001")
