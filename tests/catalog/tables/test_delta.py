"""A Delta Lake table is read as its own library reads it, at one version, and refused where it is not."""

from __future__ import annotations

import json
import os
import struct
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.catalog import find
from pix2score.catalog.catalog import Catalog, Columns, open_catalog, place_of
from pix2score.catalog.contents import ImageRows
from pix2score.catalog.shares import shares
from pix2score.catalog.tables import delta
from pix2score.errors import AccessError, ConfigError, DataError
from pix2score.images.source import image_source
from pix2score.storage import azure, google, places
from pix2score.storage.folder import Folder
from tests.conftest import SECRET
from tests.support.stores import KEY, AzureServer

deltalake = pytest.importorskip("deltalake")
Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def some(ids: Sequence[int], **columns: Any) -> pa.Table:
    """Rows with two artists and none, whose names need escapes in a path."""
    artists = [f"a b/{i % 2}" if i % 3 else None for i in ids]
    return pa.table(
        {
            "illust_id": pa.array(ids, pa.int64()),
            "uri": [f"{i}.png" for i in ids],
            "artist": pa.array(artists, pa.string()),
            **{name: [value] * len(ids) for name, value in columns.items()},
        }
    )


def options(place: str) -> dict[str, str] | None:
    """What a writer is told of the server of a store."""
    if place.startswith("gs:"):
        account = {"gcs_base_url": os.environ["STORAGE_EMULATOR_HOST"], "disable_oauth": True}
        none = {"client_email": "", "private_key": "", "private_key_id": ""}
        return {"service_account_key": json.dumps(account | none), "allow_http": "true"}
    if place.startswith("az:"):
        words = os.environ["AZURE_STORAGE_CONNECTION_STRING"].rstrip(";").split(";")
        given = dict(word.split("=", 1) for word in words)
        return {
            "account_name": given["AccountName"],
            "account_key": given["AccountKey"],
            "endpoint": given["BlobEndpoint"],
            "allow_http": "true",
        }
    if not place.startswith("s3:"):
        return None
    return {
        "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],
        "AWS_ACCESS_KEY_ID": "moto",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_S3_ALLOW_UNSAFE_RENAME": "true",
    }


def write(place: str, table: pa.Table, **more: Any) -> None:
    deltalake.write_deltalake(place, table, storage_options=options(place), **more)


def table_at(place: str) -> Any:
    return deltalake.DeltaTable(place, storage_options=options(place))


def opened(place: str) -> Catalog:
    return open_catalog(place, Columns(group="artist"))


def rows(catalog: Catalog) -> list[tuple[Any, ...]]:
    found = [row for batch in catalog.batches() for row in batch.to_pylist()]
    return sorted((row["illust_id"], row["uri"], row["group"], row.get("fingerprint")) for row in found)


def told(place: str) -> list[tuple[Any, ...]]:
    """The same by the library's own reader."""
    found = pa.table(table_at(place).scan()).to_pylist()
    return sorted((row["illust_id"], row["uri"], row["artist"], row.get("etag")) for row in found)


def grown(place: str, **first: Any) -> None:
    """Appended to, deleted from, updated, and given a new column."""
    write(place, some(range(10)), **first)
    write(place, some(range(10, 20)), mode="append")
    table_at(place).delete("illust_id = 3")
    table_at(place).update(updates={"uri": "'other.png'"}, predicate="illust_id = 4")
    write(place, some(range(20, 30), etag="e"), mode="append", schema_mode="merge")


@pytest.mark.parametrize("parted", [False, True])
def test_a_table_has_the_rows_that_its_library_reads(place: str, parted: bool) -> None:
    grown(place, partition_by=["artist"] if parted else None)
    catalog = opened(place)
    assert rows(catalog) == told(place)
    assert len(rows(catalog)) == 29
    assert catalog.pin()["version"] == {
        "format": "delta",
        "version": 4,
        "id": str(table_at(place).metadata().id),
    }
    assert place_of(catalog.pin()) == place
    assert catalog.folder.uri == place


def test_files_that_name_columns_otherwise_are_read_by_the_tables_names(tmp_path: Path) -> None:
    place = str(tmp_path)
    mapped = {"delta.columnMapping.mode": "name"}
    write(place, some(range(10)), configuration=mapped, partition_by=["artist"])
    table_at(place).delete("illust_id = 3")
    assert "illust_id" not in pq.read_schema(table_at(place).file_uris()[0]).names
    assert rows(opened(place)) == told(place)


def test_a_struct_whose_fields_have_other_names_is_refused_only_where_it_is_wanted(tmp_path: Path) -> None:
    image = pa.array([{"bytes": b"x", "path": "y"}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    table = some([1]).append_column("image", image)
    write(str(tmp_path), table, configuration={"delta.columnMapping.mode": "name"})
    assert rows(opened(str(tmp_path))) == [(1, "1.png", "a b/1", None)]
    with pytest.raises(DataError, match=r"column image has a field col-.*, which its table knows by another"):
        list(open_catalog(str(tmp_path), Columns(image="image")).batches())


def test_a_commit_after_it_was_opened_changes_nothing(place: str) -> None:
    grown(place)
    catalog = opened(place)
    before = rows(catalog)
    write(place, some(range(100, 110)), mode="append", schema_mode="merge")
    table_at(place).delete("illust_id < 8")
    catalog.check_unchanged()
    assert rows(catalog) == before
    assert rows(opened(place)) == told(place) != before


def z85(data: bytes) -> str:
    numbers = (number for (number,) in struct.iter_unpack(">I", data + bytes(-len(data) % 4)))
    return "".join(Z85[number // 85**power % 85] for number in numbers for power in (4, 3, 2, 1, 0))


def delete_by_vector(place: str, positions: Sequence[int]) -> None:
    """Commit a deletion vector of the only file, as Spark does and this library does not write one."""
    from pyroaring import BitMap

    table = table_at(place)
    (file,) = pa.table(table.get_add_actions()).to_pylist()
    body = struct.pack("<IqI", 1681511377, 1, 0) + BitMap(positions).serialize()
    vector = {"storageType": "i", "pathOrInlineDv": z85(body), "sizeInBytes": len(body)}
    add = {
        "path": file["path"],
        "partitionValues": file.get("partition", {}),
        "size": file["size_bytes"],
        "modificationTime": 1,
        "dataChange": True,
        "stats": json.dumps({"numRecords": file["num_records"]}),
        "deletionVector": vector | {"cardinality": len(positions)},
    }
    remove = {"path": file["path"], "deletionTimestamp": 1, "dataChange": True}
    commit = "\n".join(json.dumps(action) for action in ({"remove": remove}, {"add": add}))
    Folder(place).publish(f"_delta_log/{table.version() + 1:020}.json", commit.encode())


def test_rows_of_a_deletion_vector_are_gone_and_the_others_keep_their_images(tmp_path: Path) -> None:
    place = str(tmp_path)
    table = pa.table({"illust_id": range(9), "image": [bytes([i] * 20) for i in range(9)]})
    write(place, table, configuration={"delta.enableDeletionVectors": "true"})
    before = open_catalog(place, Columns())
    delete_by_vector(place, [0, 2, 8])
    catalog = open_catalog(place, Columns())
    found = pa.Table.from_batches(catalog.batches())
    assert found.column("illust_id").to_pylist() == [1, 3, 4, 5, 6, 7]
    assert sorted(pa.table(table_at(place).scan())["illust_id"].to_pylist()) == [1, 3, 4, 5, 6, 7]
    images = ImageRows.of(catalog, image_source(place, ()))
    plan = found.append_column("uri", pa.nulls(6, pa.string()))
    assert [content[0] for content in images.contents(plan)] == [1, 3, 4, 5, 6, 7]  # type: ignore[index]
    assert catalog.files == before.files
    assert catalog.pin()["version"] != before.pin()["version"]


def test_rows_of_a_part_whose_name_needs_escapes_are_gone_too(place: str) -> None:
    vectors = {"delta.enableDeletionVectors": "true"}
    write(place, some([1, 7, 13]), partition_by=["artist"], configuration=vectors)
    delete_by_vector(place, [1])
    assert rows(opened(place)) == told(place)
    assert len(told(place)) == 2


def test_shares_hold_each_live_row_once(tmp_path: Path) -> None:
    place = str(tmp_path)
    write(place, some(range(1000)), configuration={"delta.enableDeletionVectors": "true"})
    delete_by_vector(place, range(0, 1000, 7))
    catalog = opened(place)
    parts = shares(catalog, 100, 1000)
    ids = [i for part in parts for batch in catalog.batches(part) for i in batch.column(0).to_pylist()]
    assert ids == [i for i in range(1000) if i % 7]


def test_a_file_that_was_vacuumed_is_named(place: str) -> None:
    grown(place)
    catalog = opened(place)
    gone = catalog.files[0].path
    Folder(place).delete([gone])
    with pytest.raises(
        DataError, match=rf"version 4 of the table lists {gone}, which is not there: .*vacuumed"
    ):
        opened(place)
    with pytest.raises(DataError, match="is gone since the catalog was opened"):
        rows(catalog)


def test_a_file_that_was_written_over_is_named(tmp_path: Path) -> None:
    grown(str(tmp_path))
    path = opened(str(tmp_path)).files[0].path
    pq.write_table(some(range(50)), tmp_path / path)
    with pytest.raises(DataError, match=rf"{path} has \d+ bytes, the log of its table says \d+"):
        opened(str(tmp_path))


def commit(place: str, *actions: dict[str, Any]) -> None:
    text = "\n".join(json.dumps(action) for action in actions).encode()
    Folder(place).publish(f"_delta_log/{table_at(place).version() + 1:020}.json", text)


def test_a_feature_that_is_not_known_is_refused(tmp_path: Path) -> None:
    write(str(tmp_path), some(range(3)))
    features = {"readerFeatures": ["fromTheFuture"], "writerFeatures": ["fromTheFuture"]}
    commit(str(tmp_path), {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **features}})
    with pytest.raises(DataError, match="fromTheFuture"):
        opened(str(tmp_path))


def test_a_feature_that_only_the_library_knows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(str(tmp_path), some(range(3)), configuration={"delta.enableDeletionVectors": "true"})
    monkeypatch.setattr(delta, "_READ", delta._READ - {"deletionVectors"})
    with pytest.raises(DataError, match="uses deletionVectors, which is not read here; export it as plain"):
        opened(str(tmp_path))


def test_a_clone_whose_files_are_elsewhere_is_refused(tmp_path: Path) -> None:
    write(str(tmp_path), some(range(3)))
    add = {"path": "s3://elsewhere/x.parquet", "partitionValues": {}, "size": 1, "modificationTime": 1}
    commit(str(tmp_path), {"add": {**add, "dataChange": True}})
    with pytest.raises(DataError, match=r"lists a file elsewhere, s3://elsewhere/x\.parquet"):
        opened(str(tmp_path))


def test_a_broken_log_and_an_empty_table_are_said(tmp_path: Path) -> None:
    write(str(tmp_path / "a"), some(range(3)))
    table_at(str(tmp_path / "a")).delete()
    with pytest.raises(DataError, match="has no rows"):
        opened(str(tmp_path / "a"))
    Folder(str(tmp_path / "b")).publish("_delta_log/00000000000000000000.json", b"{}")
    with pytest.raises(DataError, match="this Delta Lake table cannot be read"):
        opened(str(tmp_path / "b"))


@pytest.mark.slow
def test_credentials_that_are_refused_are_said_and_never_shown(
    azure_server: AzureServer, az_place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(az_place, some(range(3)))
    text = azure_server.connection_string
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text.replace(KEY, "AAAA" + KEY[4:]))
    places._filesystem.cache_clear()
    with pytest.raises(AccessError, match="container 'pix2score-tests' was refused: the key .AZURE_STORAGE_"):
        opened(az_place)
    with pytest.raises(AccessError, match=f"{az_place}: access to this Delta Lake table was refused") as told:
        delta.delta_table(az_place)
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING",
        f"BlobEndpoint={azure_server.endpoint};SharedAccessSignature=sv=2021-08-06&sp=rl&sig=hidden42",
    )
    places._filesystem.cache_clear()
    with pytest.raises(AccessError, match="was refused") as also:
        delta.delta_table(az_place)
    places._filesystem.cache_clear()
    shown = "".join(traceback.format_exception(told.value) + traceback.format_exception(also.value))
    assert "hidden42" not in shown
    assert KEY[4:] not in shown


@pytest.mark.slow
@pytest.mark.parametrize("place", ["gs", "az"], indirect=True)
def test_a_place_without_a_table_and_one_without_a_bucket_are_named(place: str) -> None:
    with pytest.raises(DataError, match=f"no catalog at {place}: .*nothing stands there"):
        opened(place)
    with pytest.raises(DataError, match="(bucket|container) 'no-such-bucket-here' does not exist"):
        opened(f"{place[:5]}no-such-bucket-here/table")


@pytest.mark.parametrize("place", ["gs://works/table", "az://works/table"])
def test_settings_that_cannot_work_are_named_at_once(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("AZURE_", "GOOGLE_", "STORAGE_EMULATOR"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "of others only")
    for store in (azure, google):  # no machine of a cloud
        monkeypatch.setattr(store, "METADATA_HOST", "127.0.0.1")
    places._filesystem.cache_clear()
    with pytest.raises(AccessError, match="no (Google credentials for bucket|storage account for) .*'works'"):
        delta.delta_table(place)
    places._filesystem.cache_clear()


def test_without_the_library_it_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(str(tmp_path), some(range(3)))
    monkeypatch.setitem(__import__("sys").modules, "deltalake", None)
    with pytest.raises(ConfigError, match=r"pip install 'pix2score\[delta\]'"):
        opened(str(tmp_path))


def test_a_part_of_a_table_is_still_refused(tmp_path: Path) -> None:
    write(str(tmp_path), some(range(6)), partition_by=["artist"])
    part = next(path for path in tmp_path.iterdir() if path.name.startswith("artist="))
    with pytest.raises(DataError, match="is a Delta Lake table"):
        find.find_catalog(str(part))
