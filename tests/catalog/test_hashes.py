"""Hashes of embedded images are kept: an unchanged catalog file is not read for them again."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.catalog.catalog import Catalog, Columns, open_catalog
from pix2score.catalog.hashes import HASHES, KeptHashes, hashes_path
from pix2score.nightly.plan import ScoringPlan, plan_scoring
from pix2score.nightly.plan_night import plan_night
from pix2score.nightly.request import ScoringRequest
from pix2score.snapshots.config import VacuumConfig
from pix2score.snapshots.manifest import publish
from pix2score.snapshots.pieces import Origin
from pix2score.snapshots.vacuum import vacuum
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from tests.support.builders import LAYOUT, Here, planned_rows, write_catalog

IMAGES = [b"one", None, b"three" * 3000]


def opened(place: str, out: Folder) -> Catalog:
    catalog = open_catalog(place, Columns())
    return replace(catalog, kept=KeptHashes(out, catalog.folder.uri))


def hashes(catalog: Catalog) -> list[str | None]:
    return [row["sha256"] for batch in catalog.batches() for row in batch.to_pylist()]


def expected(images: list[bytes | None] = IMAGES) -> list[str | None]:
    return [image and hashlib.sha256(image).hexdigest() for image in images]  # type: ignore[misc]


@pytest.fixture
def catalog_place(place: str) -> str:
    """Two files, which embed their images."""
    write_catalog(
        f"{place}/c", {"illust_id": [1, 2], "image": pa.array(IMAGES[:2], pa.binary())}, "a.parquet"
    )
    return write_catalog(f"{place}/c", {"illust_id": [3], "image": pa.array(IMAGES[2:])}, "b.parquet")


def planned(catalog: Catalog, out: Folder, run: str = "r1", **options: Any) -> ScoringPlan:
    request = ScoringRequest(origin=Origin(run=run, model_version="m", parent=0), layout=LAYOUT)
    return plan_scoring(catalog, out, f"staged/{run}/plan", request, **options)


def test_kept_hashes_are_those_of_the_images(place: str, catalog_place: str) -> None:
    out = Folder(f"{place}/out")
    first = opened(catalog_place, out)
    assert hashes(first) == expected()
    assert out.entries() == [], "nothing is written before it is said"
    first.kept.keep()  # type: ignore[union-attr]
    assert len(out.entries(HASHES)) == 2
    assert hashes(opened(catalog_place, out)) == expected()


def test_images_of_an_unchanged_file_are_not_read(place: str, catalog_place: str) -> None:
    """What is kept says something else here, and is believed."""
    out = Folder(f"{place}/out")
    first = opened(catalog_place, out)
    hashes(first)
    first.kept.keep()  # type: ignore[union-attr]
    path = hashes_path(first.folder.uri, asdict(first.files[1]))
    rows = pq.read_table(pa.BufferReader(out.read(path)))
    told = pa.table([pa.array([bytes(32)], pa.binary(32))], schema=rows.schema)
    out.publish(path, parquet_bytes(told), replace=True)
    assert hashes(opened(catalog_place, out)) == [*expected()[:2], "00" * 32]
    write_catalog(catalog_place, {"illust_id": [3], "image": pa.array([b"other"])}, "b.parquet")
    assert hashes(opened(catalog_place, out)) == expected([*IMAGES[:2], b"other"])


@pytest.mark.parametrize("in_place", [False, True])
def test_images_that_changed_in_a_file_of_the_same_size_and_time_are_seen(
    tmp_path: Path, in_place: bool
) -> None:
    out, place = Folder(str(tmp_path / "out")), str(tmp_path / "c")
    path = Path(write_catalog(place, {"illust_id": [1], "image": pa.array([b"one"])})) / "catalog.parquet"
    before, first = path.stat(), opened(place, out)
    hashes(first)
    first.kept.keep()  # type: ignore[union-attr]
    other = parquet_bytes(pa.table({"illust_id": [1], "image": pa.array([b"two"])}))
    assert len(other) == before.st_size
    if not in_place:
        path.unlink()
    path.write_bytes(other)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = opened(place, out)
    assert second.files == first.files, "it looks the same"
    assert hashes(second) == expected([b"two"])


@pytest.mark.parametrize("data", [b"rubbish", b""])
def test_what_is_damaged_is_hashed_again(place: str, catalog_place: str, data: bytes) -> None:
    out = Folder(f"{place}/out")
    first = opened(catalog_place, out)
    for entry in first.files:
        out.publish(hashes_path(first.folder.uri, asdict(entry)), data)
    assert hashes(opened(catalog_place, out)) == expected()


def test_hashes_of_another_column_are_not_taken(tmp_path: Path) -> None:
    out = Folder(str(tmp_path / "out"))
    table = {"illust_id": [1], "image": pa.array([b"one"]), "thumb": pa.array([b"small"])}
    place = write_catalog(str(tmp_path / "c"), table)
    first = opened(place, out)
    hashes(first)
    first.kept.keep()  # type: ignore[union-attr]
    catalog = open_catalog(place, Columns(image="thumb"))
    assert hashes(replace(catalog, kept=KeptHashes(out, catalog.folder.uri))) == expected([b"small"])


def test_a_night_keeps_them_and_plans_the_same_from_them(tmp_path: Path, catalog_place: str) -> None:
    out = Folder(str(tmp_path / "out"))
    assert planned(opened(catalog_place, out), out, dry_run=True).counts.to_score == 3
    assert out.entries() == [], "a dry run writes nothing"
    plans = [planned(opened(catalog_place, out), out, run) for run in ("r1", "r2")]
    first, second = (planned_rows(out, plan.parts) for plan in plans)
    assert first == second
    assert len(out.entries(HASHES)) == 2


def test_tasks_that_deal_out_ranges_keep_them_unless_the_plan_is_not(
    tmp_path: Path, catalog_place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Folder(str(tmp_path / "out"))

    def by_ranges(run: str, **options: Any) -> ScoringPlan:
        request = ScoringRequest(origin=Origin(run=run, model_version="m", parent=0), layout=LAYOUT)
        sizes = {"one_task_rows": 0, "range_rows": 1}
        place = f"staged/{run}/plan"
        return plan_night(opened(catalog_place, out), out, place, request, Here(), **sizes, **options)

    assert by_ranges("r0", dry_run=True).counts.to_score == 3
    assert out.entries(HASHES) == [], "a dry run keeps nothing"
    first = planned_rows(out, by_ranges("r1").parts)
    assert sorted(row["fingerprint"] or "" for row in first) == sorted(
        f"sha256:{h}" if h else "" for h in expected()
    )
    assert len(out.entries(HASHES)) == 2
    monkeypatch.setattr("pix2score.catalog.row_reader.digests", lambda *_: pytest.fail("hashed again"))
    assert planned_rows(out, by_ranges("r2").parts) == first
    assert planned_rows(out, planned(opened(catalog_place, out), out, "r3").parts) == first


def test_vacuum_removes_those_of_files_that_no_kept_snapshot_pins(tmp_path: Path, catalog_place: str) -> None:
    out = Folder(str(tmp_path / "out"))
    catalog = opened(catalog_place, out)
    hashes(catalog)
    catalog.kept.keep()  # type: ignore[union-attr]
    pin = {"uri": catalog.folder.uri, "files": [asdict(catalog.files[0])]}
    facts = {"run": "r", "model_version": "m", "layout": LAYOUT.to_dict(), "files": [], "catalog": pin}
    publish(out, 0, {**facts, "counts": {"rows": 0, "failed": 0}})
    vacuum(VacuumConfig(scores=out.uri))
    assert len(out.entries(HASHES)) == 2, "they are young"
    vacuum(VacuumConfig(scores=out.uri, keep_staged="0s"))
    assert [e.path for e in out.entries(HASHES)] == [hashes_path(pin["uri"], pin["files"][0])]
