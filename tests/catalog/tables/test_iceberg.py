"""An Iceberg table is read as its own library reads it, at one snapshot, and refused where it is not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.catalog.catalog import Catalog, Columns, open_catalog
from pix2score.errors import AccessError, ConfigError, DataError
from pix2score.storage.folder import Folder
from tests.conftest import BUCKET
from tests.support.stores import ACCOUNT

pytest.importorskip("pyiceberg")
pytest.importorskip("sqlalchemy")
FILE_IO = {"py-io-impl": "pyiceberg.io.fsspec.FsspecFileIO"}
OURS = {"py-io-impl": "pix2score.catalog.tables.iceberg_files.PlaceFiles"}
"""The library's own for other stores would need packages of each."""


AZURE = f"{BUCKET}@{ACCOUNT}.dfs.core.windows.net"


def some(ids: Sequence[int], kind: pa.DataType | None = None) -> pa.Table:
    artists = [f"a b/{i % 2}" if i % 3 else None for i in ids]
    return pa.table(
        {
            "illust_id": pa.array(ids, kind or pa.int32()),
            "uri": [f"{i}.png" for i in ids],
            "artist": pa.array(artists, pa.string()),
        }
    )


def catalog_in(place: str, tmp_path: Path) -> Any:
    from pyiceberg.catalog.sql import SqlCatalog

    files = OURS if place.startswith(("gs:", "az:", "abfss:")) else FILE_IO
    found = SqlCatalog("test", uri=f"sqlite:///{tmp_path}/catalog.db", warehouse=place, **files)
    found.create_namespace_if_not_exists("db")
    return found


def grown(place: str, tmp_path: Path) -> Any:
    """A table appended to, partitioned, deleted from, its columns renamed, widened, dropped and added."""
    from pyiceberg.transforms import IdentityTransform
    from pyiceberg.types import LongType, StringType

    table = catalog_in(place, tmp_path).create_table("db.works", schema=some([1]).schema)
    table.append(some(range(10)))
    with table.update_spec() as spec:
        spec.add_field("artist", IdentityTransform(), "artist_part")
    table.append(some(range(10, 20)))
    table.delete("illust_id == 3")
    with table.update_schema() as schema:
        schema.add_column("etag", StringType())
        schema.rename_column("artist", "painter")
        schema.update_column("illust_id", field_type=LongType())
    new = {"uri": ["z"], "painter": ["p"], "etag": ["old"]}
    table.append(pa.table({"illust_id": pa.array([2**40], pa.int64()), **new}))
    with table.update_schema() as schema:
        schema.delete_column("etag")
    with table.update_schema() as schema:
        schema.add_column("etag", StringType())
    table.append(pa.table({"illust_id": pa.array([21], pa.int64()), **new, "etag": ["new"]}))
    return table


def rows(catalog: Catalog) -> list[tuple[str, ...]]:
    found = [row for batch in catalog.batches() for row in batch.to_pylist()]
    names = ("illust_id", "uri", "group", "fingerprint")
    return sorted(tuple(str(row.get(name)) for name in names) for row in found)


def told(table: Any) -> list[tuple[str, ...]]:
    found = table.scan().to_arrow().to_pylist()
    names = ("illust_id", "uri", "painter" if "painter" in found[0] else "artist", "etag")
    return sorted(tuple(str(row.get(name)) for name in names) for row in found)


def opened(place: str, group: str = "painter") -> Catalog:
    return open_catalog(place, Columns(group=group))


def test_a_table_has_the_rows_that_its_library_reads(place: str, tmp_path: Path) -> None:
    table = grown(place, tmp_path)
    catalog = opened(table.metadata_location)
    assert rows(catalog) == told(table)
    assert len(rows(catalog)) == 21
    assert str(catalog.id_type) == "int64"
    version = catalog.pin()["version"]
    assert version["snapshot_id"] == table.current_snapshot().snapshot_id
    assert version["format"] == "iceberg"
    assert catalog.folder.uri == Folder(table.metadata.location).uri


def test_a_commit_after_it_was_opened_changes_nothing(place: str, tmp_path: Path) -> None:
    table = grown(place, tmp_path)
    catalog = opened(table.metadata_location)
    before = rows(catalog)
    table.delete("illust_id < 8")
    catalog.check_unchanged()
    assert rows(catalog) == before
    assert rows(opened(table.metadata_location)) == told(table) != before


@pytest.mark.slow
def test_locations_of_azure_that_name_the_account_are_read(az_place: str, tmp_path: Path) -> None:
    warehouse = f"{az_place.replace('az://', 'abfss://').replace(BUCKET, AZURE)}"
    table = grown(warehouse, tmp_path)
    assert table.metadata_location.startswith(f"abfss://{AZURE}/")
    catalog = opened(table.metadata_location)
    assert rows(catalog) == told(table)
    assert catalog.folder.uri.startswith(f"{az_place}/")
    with pytest.raises(AccessError, match="of the account 'another', the environment's is 'studio'"):
        opened(table.metadata_location.replace("studio.", "another."))


BY_NAME = """
from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.errors import DataError
catalog = open_catalog("iceberg:test/db.works", Columns(group="painter"))
print(sum(batch.num_rows for batch in catalog.batches()), catalog.pin()["place"])
try:
    open_catalog("iceberg:test/db.none", Columns())
except DataError as exc:
    print(exc)
"""


def test_a_catalog_by_its_name_gives_the_current_snapshot(tmp_path: Path) -> None:
    table = grown(str(tmp_path), tmp_path)
    settings = {"TYPE": "sql", "URI": f"sqlite:///{tmp_path}/catalog.db"}
    found = subprocess.run(  # pyiceberg reads its settings as it is imported
        [sys.executable, "-c", BY_NAME],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {f"PYICEBERG_CATALOG__TEST__{name}": value for name, value in settings.items()},
    )
    first, second = found.stdout.splitlines()
    assert first == f"{len(told(table))} iceberg:test/db.works"
    assert second.startswith("iceberg:test/db.none: ")
    with pytest.raises(ConfigError, match=r"nowhere is no catalog"):
        opened("iceberg:nowhere/db.works")
    with pytest.raises(ConfigError, match=r"expected iceberg:CATALOG/namespace\.table"):
        opened("iceberg:works")


def test_a_folder_is_read_by_its_hint_and_never_guessed(tmp_path: Path) -> None:
    table = grown(str(tmp_path), tmp_path)
    folder = Folder(table.metadata.location)
    with pytest.raises(DataError, match=r"only its catalog knows .*such as .*\.metadata\.json"):
        opened(folder.uri)
    name = table.metadata_location.rpartition("/")[2].removesuffix(".metadata.json")
    folder.publish("metadata/version-hint.text", name.encode())
    assert rows(opened(folder.uri)) == told(table)
    folder.publish("metadata/version-hint.text", b"77", replace=True)
    with pytest.raises(DataError, match=r"says '77', and there are no such metadata"):
        opened(folder.uri)


def test_a_table_that_was_moved_is_refused(tmp_path: Path) -> None:
    table = grown(str(tmp_path / "a"), tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = table.metadata_location.replace("/a/", "/b/")
    with pytest.raises(DataError, match=r"its table is at .*/a/db/works, by what it says: .*moved"):
        opened(moved)


def test_a_file_that_is_gone_is_named(place: str, tmp_path: Path) -> None:
    table = grown(place, tmp_path)
    gone = opened(table.metadata_location).files[0].path
    Folder(table.metadata.location).delete([gone])
    with pytest.raises(
        DataError, match=rf"snapshot \d+ of the table lists {re.escape(gone)}, which is not there"
    ):
        opened(table.metadata_location)


def with_delete_file(table: Any, kind: str, file: Path, rows: int) -> str:
    """A metadata file of the table with one more snapshot, whose ``kind`` of delete file is ``file``."""
    from pyiceberg.manifest import (
        DataFile,
        DataFileContent,
        FileFormat,
        ManifestContent,
        ManifestEntry,
        ManifestEntryStatus,
        ManifestWriterV2,
        write_manifest_list,
    )
    from pyiceberg.partitioning import PARTITION_FIELD_ID_START, PartitionSpec  # noqa: F401
    from pyiceberg.typedef import Record

    class Writer(ManifestWriterV2):
        def content(self) -> ManifestContent:
            return ManifestContent.DELETES

    metadata, snapshot = table.metadata, table.current_snapshot()
    folder, number = file.parent, snapshot.snapshot_id + 1
    data = DataFile.from_args(
        content=DataFileContent[kind],
        file_path=str(file),
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=rows,
        file_size_in_bytes=file.stat().st_size,
        equality_ids=[1] if kind == "EQUALITY_DELETES" else None,
    )
    data.spec_id = 0
    entry = ManifestEntry.from_args(
        status=ManifestEntryStatus.ADDED,
        snapshot_id=number,
        sequence_number=metadata.last_sequence_number + 1,
        file_sequence_number=metadata.last_sequence_number + 1,
        data_file=data,
    )
    output = table.io.new_output(str(folder / "deletes.avro"))
    with Writer(metadata.spec(), metadata.schema(), output, number, "null") as writer:
        writer.add_entry(entry)
    manifest = writer.to_manifest_file()
    manifest.sequence_number = manifest.min_sequence_number = metadata.last_sequence_number + 1
    listed = table.io.new_output(str(folder / "list.avro"))
    with write_manifest_list(
        2, listed, number, snapshot.snapshot_id, metadata.last_sequence_number + 1, "null"
    ) as writer:
        writer.add_manifests([*snapshot.manifests(table.io), manifest])
    plain = json.loads(metadata.model_dump_json(by_alias=True))
    newest = {**plain["snapshots"][-1], "snapshot-id": number, "parent-snapshot-id": snapshot.snapshot_id}
    newest |= {
        "sequence-number": plain["last-sequence-number"] + 1,
        "manifest-list": str(folder / "list.avro"),
    }
    plain |= {"snapshots": [*plain["snapshots"], newest], "current-snapshot-id": number}
    plain["last-sequence-number"] += 1
    plain.pop("refs", None)
    path = f"{metadata.location}/metadata/99999-deletes.metadata.json"
    Path(path).write_text(json.dumps(plain))
    return path


def plain_table(tmp_path: Path) -> Any:
    table = catalog_in(str(tmp_path), tmp_path).create_table("db.works", schema=some([1]).schema)
    table.append(some(range(10)))
    return table


def test_rows_deleted_by_position_are_gone(tmp_path: Path) -> None:
    from pyiceberg.table import StaticTable

    table = plain_table(tmp_path)
    (task,) = table.scan().plan_files()
    file = Path(table.metadata.location) / "data" / "deletes.parquet"
    places = [task.file.file_path] * 2 + ["/another.parquet"]
    pq.write_table(pa.table({"file_path": places, "pos": pa.array([7, 2, 5], pa.int64())}), file)
    metadata = with_delete_file(table, "POSITION_DELETES", file, 3)
    catalog = opened(metadata, "artist")
    assert rows(catalog) == told(StaticTable.from_metadata(metadata))
    assert [row[0] for row in rows(catalog)] == ["0", "1", "3", "4", "5", "6", "8", "9"]


def test_equality_deletes_are_refused_with_what_to_do(tmp_path: Path) -> None:
    table = plain_table(tmp_path)
    file = Path(table.metadata.location) / "data" / "deletes.parquet"
    pq.write_table(pa.table({"illust_id": pa.array([3], pa.int32())}), file)
    metadata = with_delete_file(table, "EQUALITY_DELETES", file, 1)
    with pytest.raises(
        DataError, match=r"has equality deletes, which are not read here; .*rewrite_data_files"
    ):
        opened(metadata, "artist")


def test_files_added_without_field_ids_are_read_by_the_mapping_of_names(tmp_path: Path) -> None:
    table = plain_table(tmp_path)
    added = Path(table.metadata.location) / "data" / "added.parquet"
    pq.write_table(some(range(50, 55)), added)
    table.add_files([str(added)])
    with table.update_schema() as schema:
        schema.rename_column("artist", "painter")
    assert rows(opened(table.metadata_location)) == told(table)
    assert len(told(table)) == 15


def test_an_empty_table_is_said(tmp_path: Path) -> None:
    table = catalog_in(str(tmp_path), tmp_path).create_table("db.works", schema=some([1]).schema)
    with pytest.raises(DataError, match="has no rows"):
        opened(table.metadata_location)


def test_without_the_library_it_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = plain_table(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "pyiceberg", None)
    with pytest.raises(ConfigError, match=r"pip install 'pix2score\[iceberg\]'"):
        opened(table.metadata_location)
