"""A night's rows out of their pieces: in key order, none lost or invented, whatever order the pieces hold
them in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pix2score.catalog.keys import Key
from pix2score.errors import StorageError
from pix2score.nightly.changed_rows import check_changed_keys, load_changed_keys, sorted_changes
from pix2score.snapshots.pieces import Origin, Receipt, write_piece
from pix2score.snapshots.tables import resumed_schema
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from pix2score.storage.parts import Part
from pix2score.storage.sql import engine
from tests.support.builders import LAYOUT, MODEL_VERSION, embeddings_table, scores_table

KEYS: list[Key] = [(number // 2, number % 2) for number in range(60)]


def piece(folder: Folder, run: str, name: str, keys: list[Key], failed: tuple[Key, ...] = ()) -> Receipt:
    origin = Origin(run=run, model_version=MODEL_VERSION, parent=0)
    return write_piece(folder, origin, name, LAYOUT, scores_table(keys, run, failed), embeddings_table(keys))


def shuffled(keys: list[Key], seed: int) -> list[Key]:
    return [keys[i] for i in np.random.default_rng(seed).permutation(len(keys))]


def taken_part(folder: Folder, receipt: Receipt, keys: list[Key]) -> Part:
    facts = {"run": receipt.origin.run, "piece": receipt.scores.path}
    rows = pa.Table.from_pylist(
        [{"illust_id": i, "page": page, **facts} for i, page in keys], resumed_schema(LAYOUT.id_type)
    )
    folder.publish("taken.parquet", parquet_bytes(rows))
    return Part("taken.parquet", rows.num_rows)


def test_rows_of_all_pieces_come_whole_and_in_key_order(tmp_path: Path) -> None:
    folder, scratch = Folder(str(tmp_path / "out")), tmp_path / "scratch"
    scratch.mkdir()
    keys = shuffled(KEYS, 0)
    own = [
        piece(folder, "run-2", "a", keys[:20], failed=(keys[3],)),
        piece(folder, "run-2", "b", keys[20:35]),
    ]
    older = piece(
        folder, "run-1", "c", keys[30:]
    )  # five keys that run-2 has too, and a failure that is not taken
    taken = keys[35:58]
    with engine() as connection:
        unused = load_changed_keys(
            connection, folder, LAYOUT, own, [taken_part(folder, older, taken)], [older]
        )
        check_changed_keys(connection, "run-2", 58)
        tables = list(sorted_changes(connection, folder, LAYOUT, [*own, older], scratch, 16))
    assert [table.num_rows for table in tables] == [16, 16, 16, 10]
    by_key = [("illust_id", "ascending"), ("page", "ascending")]
    both = [scores_table(keys[:35], "run-2", (keys[3],)), scores_table(taken, "run-1")]
    assert pa.concat_tables(tables).equals(pa.concat_tables(both).sort_by(by_key))
    assert unused is not None
    assert {(row["illust_id"], row["page"], row["run"]) for row in unused.to_pylist()} == {
        (*key, "run-1") for key in (*keys[30:35], *keys[58:])
    }


@pytest.mark.parametrize(("second", "planned"), [(KEYS[20:40], 41), (KEYS[19:40], 41), (KEYS[19:40], 40)])
def test_rows_that_are_too_few_or_stand_twice_are_not_published(
    tmp_path: Path, second: list[Key], planned: int
) -> None:
    folder = Folder(str(tmp_path))
    own = [piece(folder, "run-2", "a", KEYS[:20]), piece(folder, "run-2", "b", second)]
    with engine() as connection:
        load_changed_keys(connection, folder, LAYOUT, own, [], [])
        with pytest.raises(StorageError, match=f"planned {planned}: not published"):
            check_changed_keys(connection, "run-2", planned)


def test_a_piece_with_other_rows_than_its_receipt_says_is_named(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    receipt = piece(folder, "run-2", "a", KEYS)
    (scores, embeddings) = receipt.files
    wrong = replace(receipt, files=(replace(scores, rows=59), embeddings))
    with engine() as connection, pytest.raises(StorageError, match="has 60 rows, its receipt says 59"):
        load_changed_keys(connection, folder, LAYOUT, [wrong], [], [])


def test_a_piece_that_is_missing_ends_the_night_with_its_name(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    receipt = piece(folder, "run-2", "a", KEYS)
    folder.delete([receipt.scores.path])
    with engine() as connection, pytest.raises(StorageError, match=f"{receipt.scores.path} is missing"):
        load_changed_keys(connection, folder, LAYOUT, [receipt], [], [])
