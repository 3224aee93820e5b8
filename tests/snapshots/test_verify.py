"""Verify: a good snapshot passes, and each kind of damage is named."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.errors import DataError, VerifyError
from pix2score.host.executor import LocalThreads
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.indexes import publish_index
from pix2score.snapshots.manifest import live
from pix2score.snapshots.tables import DataFile, write_file
from pix2score.snapshots.verify import verify, verify_on
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from tests.snapshots.test_indexes import card_of
from tests.support.builders import LAYOUT, MODEL_VERSION, publish_night, write_catalog
from tests.support.nights import World, keys

KEYS = [(i, p) for i in range(1, 21) for p in range(2)]
FAILED = [(7, 0), (8, 1)]
MANIFEST = "snapshots/00000001.json"


@pytest.fixture
def scores(place: str) -> str:
    """A good scores folder."""
    publish_night(f"{place}/scores", KEYS, failed=FAILED)
    return f"{place}/scores"


@pytest.fixture
def local_scores(tmp_path: Any) -> str:
    """A good scores folder on disk, for damage that does not depend on storage."""
    publish_night(str(tmp_path / "scores"), KEYS, failed=FAILED)
    return str(tmp_path / "scores")


def problem_of(scores: str, catalog: str | None = None) -> str:
    with pytest.raises(VerifyError) as caught:
        verify(VerifyConfig(scores=scores, catalog=catalog))
    return str(caught.value)


def files(scores: str, table: str) -> list[DataFile]:
    return [file for file in live(scores).files if file.table == table]


def change_manifest(scores: str, change: Callable[[dict[str, Any]], None]) -> None:
    folder = Folder(scores)
    manifest = json.loads(folder.read(MANIFEST))
    change(manifest)
    folder.publish(MANIFEST, json.dumps(manifest).encode(), replace=True)


def change_rows(scores: str, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Rewrite the first file of a table as if score had written it so: manifest and hash agree with it."""
    folder, old = Folder(scores), files(scores, table)[0]
    data = parquet_bytes(change(pq.read_table(pa.BufferReader(folder.read(old.path)))))
    folder.publish(old.path, data, replace=True)
    rows = pq.ParquetFile(pa.BufferReader(data)).metadata.num_rows
    new = replace(old, rows=rows, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    def put(manifest: dict[str, Any]) -> None:
        manifest["files"] = [asdict(new) if file["path"] == old.path else file for file in manifest["files"]]

    change_manifest(scores, put)


def set_values(
    column: str, values: Callable[[list[dict[str, Any]]], list[Any]]
) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        field = table.schema.field(column)
        return table.set_column(
            table.schema.get_field_index(column), field, pa.array(values(table.to_pylist()), field.type)
        )

    return change


def first_ok(column: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    """The first row, which is ok, gets another value."""
    return set_values(column, lambda rows: [value, *(row[column] for row in rows[1:])])


def test_a_good_snapshot_passes_and_is_counted(scores: str) -> None:
    catalog = write_catalog(
        f"{scores}-catalog",
        {"illust_id": [k[0] for k in KEYS], "page": [k[1] for k in KEYS], "uri": ["a"] * 40},
    )
    assert verify(VerifyConfig(scores=scores, catalog=catalog)) == {
        "job": "verify",
        "snapshot": 1,
        "model_version": MODEL_VERSION,
        "rows": 40,
        "failed": 2,
        "pending": 0,
        "files": 3,
    }


def test_no_snapshot_is_a_data_error(place: str) -> None:
    with pytest.raises(DataError, match="no scores at"):
        verify(VerifyConfig(scores=place))


@pytest.mark.parametrize("table", ["scores", "embeddings"])
def test_a_missing_file_is_named(scores: str, table: str) -> None:
    path = files(scores, table)[0].path
    Folder(scores).delete([path])
    assert f"{path} is missing" in problem_of(scores)


@pytest.mark.parametrize("table", ["scores", "embeddings"])
def test_one_altered_byte_is_named(scores: str, table: str) -> None:
    folder, path = Folder(scores), files(scores, table)[-1].path
    data = bytearray(folder.read(path))
    data[len(data) // 2] ^= 1
    folder.publish(path, bytes(data), replace=True)
    assert f"{path} was altered" in problem_of(scores)


@pytest.mark.parametrize("table", ["scores", "embeddings"])
def test_a_truncated_file_is_named(scores: str, table: str) -> None:
    folder, file = Folder(scores), files(scores, table)[0]
    folder.publish(file.path, folder.read(file.path)[:-1], replace=True)
    assert f"{file.path} has {file.bytes - 1} bytes, manifest says {file.bytes}" in problem_of(scores)


def test_every_problem_is_named_at_once(local_scores: str) -> None:
    paths = [file.path for file in live(local_scores).files]
    Folder(local_scores).delete(paths)
    assert all(f"{path} is missing" in problem_of(local_scores) for path in paths)


def test_a_file_that_is_not_parquet_is_named_though_its_hash_agrees(local_scores: str) -> None:
    file = files(local_scores, "scores")[0]
    Folder(local_scores).publish(file.path, b"rubbish", replace=True)

    def agree(manifest: dict[str, Any]) -> None:
        manifest["files"][0] |= {"bytes": 7, "sha256": hashlib.sha256(b"rubbish").hexdigest()}

    change_manifest(local_scores, agree)
    assert "arquet" in problem_of(local_scores)


def test_a_changed_row_count_of_a_file_is_named(local_scores: str) -> None:
    change_manifest(local_scores, lambda manifest: manifest["files"][0].update(rows=39))
    assert "has 40 rows, manifest says 39" in problem_of(local_scores)


@pytest.mark.parametrize(("count", "value"), [("rows", 41), ("failed", 1)])
def test_changed_counts_of_the_snapshot_are_named(local_scores: str, count: str, value: int) -> None:
    change_manifest(local_scores, lambda manifest: manifest["counts"].update({count: value}))
    assert "40 rows with 2 failed, manifest says" in problem_of(local_scores)


def leaves(plain: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value in a manifest."""
    if isinstance(plain, dict | list):
        for name, value in plain.items() if isinstance(plain, dict) else enumerate(plain):
            yield from leaves(value, (*path, name))
    else:
        yield path


def altered(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value[:-1] + chr(ord(value[-1]) ^ 1) if value else "x"
    return 1 if value is None else value + 1


@pytest.fixture(scope="module")
def counted_once(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(str(tmp_path_factory.mktemp("counted")))
    world.columns = {"likes": lambda key: key[1]}
    content = {**keys(1, 2, 3), (4, 0): "CORRUPT"}
    world.night(content, carry=("likes",))
    world.night({**content, (1, 0): "NOT_FOUND", **keys(5)}, carry=("likes",), ends_after=0)
    return world


@pytest.fixture
def counted(counted_once: World, tmp_path: Path) -> World:
    """With rows of every kind, and a column of the catalog."""
    return counted_once.copied_to(str(tmp_path / "world"))


def problem_with(world: World, path: tuple[Any, ...], change: Callable[[dict[Any, Any]], None]) -> str:
    """What is wrong once a value of the manifest is another one."""
    name = f"snapshots/{live(world.scores).number:08}.json"
    before = world.folder.read(name)
    plain = json.loads(before)
    at = plain
    for step in path[:-1]:
        at = at[step]
    change(at)
    world.folder.publish(name, json.dumps(plain, indent=1).encode(), replace=True)
    try:
        return problem_of(world.scores, f"{world.place}/catalog")
    finally:
        world.folder.publish(name, before, replace=True)


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (("counts", "ok"), "its files have ok 3, manifest says 4"),
        (("counts", "failed_by_code", "CORRUPT"), "its files have failed_by_code {'CORRUPT': 1}"),
        (("counts", "kept"), "its files have kept 0, manifest says 1"),
        (("runs", "run-001"), "its files have runs {'run-001': 3}, manifest says {'run-001': 4}"),
        (("files", 0, "runs", "run-001"), "has runs {'run-001': 3}, manifest says {'run-001': 4}"),
        (("files", 0, "failed", "CORRUPT"), "has failed {'CORRUPT': 1}, manifest says {'CORRUPT': 2}"),
        (("files", 0, "pending"), "has pending 1, manifest says 2"),
        (("files", 0, "kept"), "has kept 0, manifest says 1"),
        (("files", 0, "first_key", 0), "has first_key (1, 0), manifest says (2, 0)"),
        (("files", 1, "table"), "names 1 files of no table"),
        (("trunk_version",), "snapshots/00000002.json was altered"),
        (("layout", "heads", 0, "edges", 0), "snapshots/00000002.json was altered"),
        (("plan", "new"), "snapshots/00000002.json was altered"),
        (("sha256",), "snapshots/00000002.json was altered"),
    ],
)
def test_what_the_manifest_says_of_its_files_is_compared(
    counted: World, what: tuple[Any, ...], told: str
) -> None:
    def change(at: dict[Any, Any]) -> None:
        at[what[-1]] = altered(at[what[-1]])

    assert told in problem_with(counted, what, change)


def test_a_null_in_a_manifest_is_named_where_an_older_snapshot_has_an_index(counted: World) -> None:
    publish_index(counted.folder, card_of(1, 1))
    told = problem_with(counted, ("compaction_of",), lambda at: at.update(compaction_of=None))
    assert "snapshots/00000002.json was altered" in told


@pytest.mark.slow
def test_every_altered_value_and_name_of_a_manifest_is_found(counted: World) -> None:
    manifest = json.loads(counted.folder.read("snapshots/00000002.json"))
    for path in leaves(manifest):

        def change(at: dict[Any, Any], last: Any = path[-1]) -> None:
            at[last] = altered(at[last])

        def rename(at: dict[Any, Any], last: Any = path[-1]) -> None:
            at[altered(last)] = at.pop(last)

        assert problem_with(counted, path, change), path
        if isinstance(path[-1], str):
            assert problem_with(counted, path, rename), path


def test_a_manifest_of_another_form_is_one_line_for_every_reader(counted: World) -> None:
    name = f"snapshots/{live(counted.scores).number:08}.json"
    plain = json.loads(counted.folder.read(name))
    plain["files"][0]["sise"] = plain["files"][0].pop("bytes")
    counted.folder.publish(name, json.dumps(plain).encode(), replace=True)
    with pytest.raises(DataError, match="the manifest of snapshot 2 was altered"):
        live(counted.scores).files_of("scores")


def test_pending_rows_are_counted_and_hold_nothing(local_scores: str) -> None:
    def pending(table: pa.Table) -> pa.Table:
        status = ["pending" if i == 3 else value for i, value in enumerate(table["status"].to_pylist())]
        return table.set_column(2, table.schema.field(2), pa.array(status))

    change_rows(local_scores, "scores", pending)
    told = problem_of(local_scores)
    assert "1 pending rows with predictions, an error_code, attempts or a fingerprint" in told
    assert "1 rows are pending, manifest says 0" in told


def test_a_key_that_stands_twice_is_named(local_scores: str) -> None:
    change_rows(local_scores, "scores", lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    assert "1 keys that stand more than once" in problem_of(local_scores)


def test_a_missing_row_is_named(local_scores: str) -> None:
    change_rows(local_scores, "scores", lambda table: table.slice(1))
    assert "39 rows with 2 failed, manifest says 40 with 2" in problem_of(local_scores)


def test_an_ok_row_without_an_embedding_is_named(local_scores: str) -> None:
    change_rows(local_scores, "embeddings", lambda table: table.slice(1))
    assert "1 ok keys without an embedding" in problem_of(local_scores)


def test_an_ok_row_whose_embedding_is_of_another_run_is_named(local_scores: str) -> None:
    change_rows(local_scores, "scores", first_ok("embedding_run", "20200101T000000-00000000"))
    assert "1 ok keys without an embedding" in problem_of(local_scores)


def test_a_key_with_two_embeddings_is_named(local_scores: str) -> None:
    change_rows(local_scores, "embeddings", lambda table: pa.concat_tables([table, table.slice(0, 1)]))
    assert "1 live keys with more than one embedding" in problem_of(local_scores)


def test_a_failed_row_with_predictions_is_named(local_scores: str) -> None:
    change_rows(local_scores, "scores", set_values("bookmark_bin", lambda rows: [1] * len(rows)))
    assert "2 failed rows with predictions" in problem_of(local_scores)


def test_a_failed_row_without_a_known_code_is_named(local_scores: str) -> None:
    change_rows(
        local_scores,
        "scores",
        set_values("error_code", lambda rows: [r["error_code"] and "OOPS" for r in rows]),
    )
    assert "2 failed rows without a known error_code" in problem_of(local_scores)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("status", "done", "1 rows whose status is neither ok nor failed"),
        ("error_code", "CORRUPT", "1 ok rows with an error_code"),
        ("bookmark_bin", None, "ok rows whose bookmark is not a distribution"),
        ("bookmark_bin", 0, "ok rows whose bookmark is not a distribution"),
        ("bookmark_bin", 3, "ok rows whose bookmark is not a distribution"),
        ("bookmark_probs", None, "ok rows whose bookmark is not a distribution"),
        ("bookmark_probs", [0.2, 0.5, 0.2], "ok rows whose bookmark is not a distribution"),
        ("bookmark_probs", [-0.5, 1.5, 0.0], "ok rows whose bookmark is not a distribution"),
        ("bookmark_probs", [float("nan"), 0.75, 0.25], "ok rows whose bookmark is not a distribution"),
        ("sanity_score", 1.5, "ok rows whose sanity is not a distribution"),
        ("sanity_score", float("nan"), "ok rows whose sanity is not a distribution"),
        ("sanity_median", 0, "ok rows whose sanity is not a distribution"),
        ("sanity_median", 2, "ok rows whose sanity is not a distribution"),
        ("sanity_median", None, "ok rows whose sanity is not a distribution"),
        ("sanity_expected", float("inf"), "ok rows whose sanity is not a distribution"),
    ],
)
def test_an_ok_row_that_is_not_well_formed_is_named(
    local_scores: str, column: str, value: Any, message: str
) -> None:
    change_rows(local_scores, "scores", first_ok(column, value))
    assert message in problem_of(local_scores)


def test_a_column_of_another_type_is_named(local_scores: str) -> None:
    def widen(table: pa.Table) -> pa.Table:
        return table.set_column(
            table.schema.get_field_index("attempts"), "attempts", pa.array(np.ones(40, np.int64))
        )

    change_rows(local_scores, "scores", widen)
    assert "attempts is int64, expected int16" in problem_of(local_scores)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([*KEYS, (99, 3)], "1 catalog keys are not in the snapshot, such as id 99, page 3"),
        (KEYS[1:], "1 keys are not in the catalog, such as id 1, page 0"),
        ([*KEYS[1:], (99, 3)], "1 catalog keys are not in the snapshot"),
    ],
)
def test_a_catalog_with_a_key_more_or_less_is_named(
    local_scores: str, keys: list[tuple[int, int]], message: str
) -> None:
    table = {"illust_id": [k[0] for k in keys], "page": [k[1] for k in keys], "uri": ["a"] * len(keys)}
    assert message in problem_of(local_scores, write_catalog(f"{local_scores}-catalog", table))


def test_a_catalog_of_another_id_type_is_named(local_scores: str) -> None:
    catalog = write_catalog(f"{local_scores}-catalog", {"illust_id": ["1"], "uri": ["a"]})
    assert "the catalog's ids are string, the snapshot's int64" in problem_of(local_scores, catalog)


def test_null_and_repeated_rows_of_the_catalog_are_no_problem(local_scores: str) -> None:
    table = {
        "illust_id": [None, *(k[0] for k in KEYS), 1],
        "page": [0, *(k[1] for k in KEYS), 0],
        "uri": ["a"] * 42,
    }
    verify(VerifyConfig(scores=local_scores, catalog=write_catalog(f"{local_scores}-catalog", table)))


def test_a_snapshot_where_everything_failed_passes(tmp_path: Any) -> None:
    publish_night(str(tmp_path), KEYS, failed=KEYS, layout=LAYOUT)
    assert verify(VerifyConfig(scores=str(tmp_path)))["failed"] == 40


@pytest.fixture
def in_many_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task for each file, and for some ten keys."""
    monkeypatch.setattr("pix2score.snapshots.verify.GROUP_FILES", 1)
    monkeypatch.setattr("pix2score.snapshots.verify_keys.PART_ROWS", 10)


@pytest.mark.usefixtures("in_many_tasks")
@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("embeddings", lambda table: table.slice(1), "1 ok keys without an embedding"),
        (
            "embeddings",
            lambda table: pa.concat_tables([table, table.slice(0, 1)]),
            "1 live keys with more than one embedding",
        ),
        (
            "scores",
            first_ok("embedding_run", "20200101T000000-00000000"),
            "1 embeddings that are neither live nor listed as dead; 1 ok keys without an embedding",
        ),
        ("scores", lambda table: table.slice(1), "39 rows with 2 failed, manifest says 40 with 2"),
    ],
)
def test_many_tasks_find_what_one_finds(
    local_scores: str, table: str, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    assert verify(VerifyConfig(scores=local_scores))["rows"] == 40
    change_rows(local_scores, table, change)
    assert message in problem_of(local_scores)


class Recording(LocalThreads):
    """Runs calls as they are, and remembers which functions they were of."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def each(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], memory_bytes: int | None = None
    ) -> Iterator[Any]:
        self.calls[function.__name__] += len(calls)
        return super().each(function, calls, memory_bytes)


@pytest.mark.usefixtures("in_many_tasks")
def test_keys_of_scores_are_read_again_only_for_hashes_with_a_fault(tmp_path: Path) -> None:
    """Each task reads all of them: a sound snapshot, with dead embeddings too, needs none."""
    world, content, workers = World(str(tmp_path)), keys(*range(40)), Recording()
    world.night(content)
    world.night({**content, (3, 0): "b"})
    assert files(world.scores, "dead")
    verify_on(VerifyConfig(scores=world.scores), workers)
    assert (workers.calls["undead_sums"], workers.calls["check_keys"]) == (5, 0)
    (dead,) = files(world.scores, "dead")
    world.folder.publish(
        f"snapshots/{2:08}.json",
        json.dumps(
            live(world.scores).manifest
            | {"files": [asdict(file) for file in live(world.scores).files if file.path != dead.path]}
        ).encode(),
        replace=True,
    )
    with pytest.raises(VerifyError, match="1 embeddings that are neither live nor listed as dead"):
        verify_on(VerifyConfig(scores=world.scores), workers)
    assert workers.calls["check_keys"] == 1


@pytest.mark.usefixtures("in_many_tasks")
def test_faults_all_over_are_found_in_one_reading_of_the_scores(tmp_path: Path) -> None:
    """Each of the parts has one: there were as many readings as parts."""
    scores, workers = str(tmp_path), Recording()
    publish_night(scores, [(i, 0) for i in range(200)])
    wrong = [*range(0, 200, 10)]

    def change(table: pa.Table) -> pa.Table:
        runs = [
            "20200101T000000-00000000" if key in wrong else run
            for key, run in zip(
                table["illust_id"].to_pylist(), table["embedding_run"].to_pylist(), strict=True
            )
        ]
        return table.set_column(
            table.schema.get_field_index("embedding_run"), "embedding_run", pa.array(runs, pa.string())
        )

    change_rows(scores, "scores", change)
    with pytest.raises(VerifyError, match=r"20 embeddings that are neither .*; 20 ok keys without an emb"):
        verify_on(VerifyConfig(scores=scores), workers)
    assert (workers.calls["undead_sums"], workers.calls["check_keys"]) == (20, 1)


@pytest.mark.usefixtures("in_many_tasks")
def test_a_key_that_stands_in_two_files_is_named(local_scores: str) -> None:
    """Each of them holds it once."""
    folder, (first,) = Folder(local_scores), files(local_scores, "scores")
    rows = pq.read_table(pa.BufferReader(folder.read(first.path)))
    again = write_file(folder, "scores", first.path.replace("part-", "part-0"), rows.slice(3, 1))
    change_manifest(local_scores, lambda manifest: manifest["files"].insert(1, asdict(again)))
    assert "1 keys that stand more than once" in problem_of(local_scores)


@pytest.mark.usefixtures("in_many_tasks")
def test_numbers_that_are_not_finite_are_counted(local_scores: str) -> None:
    def spoil(table: pa.Table) -> pa.Table:
        lists = table["embedding"].to_pylist()
        lists[2][1], lists[5][0] = float("nan"), float("inf")
        return table.set_column(2, table.schema.field(2), pa.array(lists, table.schema.field(2).type))

    change_rows(local_scores, "embeddings", spoil)
    assert problem_of(local_scores).endswith(": 2 embeddings with NaN or infinity")
