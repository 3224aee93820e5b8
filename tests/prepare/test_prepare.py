"""prepare on a drawn catalog of every format, with real Ray Data."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pix2score.dataset.card import SPLITS, open_dataset
from pix2score.errors import ConfigError, DataError, LimitError
from pix2score.host.budget import bounded_runs
from pix2score.images.decode import open_upright
from pix2score.images.source import image_source
from pix2score.prepare.config import PrepareConfig
from pix2score.prepare.job import prepare
from pix2score.storage.folder import Folder
from tests.support.builders import write_catalog
from tests.support.chain import Chain
from tests.support.drivers import picture

pytestmark = pytest.mark.usefixtures("ray_session")


def shards(chain: Chain, split: str) -> pa.Table:
    dataset = open_dataset(chain.dataset)
    return pa.concat_tables(pq.read_table(f"{chain.dataset}/{part.path}") for part in dataset.parts(split))


def test_every_planned_row_is_in_a_split_or_failed_with_a_code(chain: Chain) -> None:
    card = open_dataset(chain.dataset).card
    dropped = card["dropped"]
    assert dropped["failed_images"] == chain.drawn.broken
    assert sum(card["rows"].values()) + sum(dropped["failed_images"].values()) == dropped["planned"]
    left_out = sum(
        dropped[name]
        for name in ("null_id", "duplicate_key", "over_max_pages", "unknown_split", "unlabelled")
    )
    assert dropped["planned"] + left_out == chain.catalog_rows().num_rows == dropped["catalog_rows"]
    assert (dropped["null_id"], dropped["duplicate_key"]) == (1, 1)


def test_the_card_counts_what_stands_in_the_shards(chain: Chain) -> None:
    card = open_dataset(chain.dataset).card
    assert {split: shards(chain, split).num_rows for split in SPLITS} == card["rows"]
    assert pds.dataset(f"{chain.dataset}/failed").count_rows() == sum(
        card["dropped"]["failed_images"].values()
    )


def test_one_artist_never_stands_in_two_splits(chain: Chain) -> None:
    groups = [set(shards(chain, split).column("group").to_pylist()) for split in SPLITS]
    assert all(groups)
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_bins_are_digitized_labels_and_missing_labels_are_masked(chain: Chain) -> None:
    dataset, rows = open_dataset(chain.dataset), shards(chain, "train")
    for head in dataset.heads:
        for label, bin_ in zip(
            rows.column(f"{head.name}_label").to_pylist(),
            rows.column(f"{head.name}_bin").to_pylist(),
            strict=True,
        ):
            assert bin_ == (-1 if label is None else np.digitize(label, head.bin_edges))
    negative = sum(b is not None and b < 0 for b in chain.catalog_rows().column("bookmarks").to_pylist())
    assert (
        dataset.card["dropped"]["dropped_labels"]["bookmark"]
        == {"below_min_value": negative}
        == {"below_min_value": 1}
    )


def test_small_images_keep_their_bytes_and_large_ones_are_shrunk_to_jpeg(chain: Chain) -> None:
    uris = {(r["illust_id"], r["page"]): r["uri"] for r in chain.catalog_rows().to_pylist()}
    source = image_source(chain.catalog, ())
    num_kept = 0
    for row in shards(chain, "train").to_pylist():
        (original,) = source.read_many([uris[row["illust_id"], row["page"]]])
        assert isinstance(original, bytes)
        short_side = min(open_upright(original).size)
        if short_side <= 64:
            assert row["image"] == original
            num_kept += 1
        else:
            with Image.open(io.BytesIO(row["image"])) as image:
                assert (image.format, min(image.size)) == ("JPEG", 64)
    assert num_kept


def test_shards_are_mixed_rather_than_in_the_catalogs_order(chain: Chain) -> None:
    ids = shards(chain, "train").column("illust_id").to_numpy()
    assert abs(np.corrcoef(ids, np.arange(len(ids)))[0, 1]) < 0.5


@given(st.lists(st.integers(0, 100), max_size=40), st.integers(1, 150))
def test_row_groups_cover_all_rows_and_stay_below_the_limit(sizes: list[int], most: int) -> None:
    bounds = list(bounded_runs(np.array(sizes, dtype=np.int64), most))
    assert [row for start, stop in bounds for row in range(start, stop)] == list(range(len(sizes)))
    assert all(sum(sizes[start:stop]) <= most or stop - start == 1 for start, stop in bounds)


def test_preparing_twice_gives_the_same_rows_in_the_same_order(chain: Chain, tmp_path: Path) -> None:
    again = PrepareConfig(
        catalog=chain.catalog, out=str(tmp_path), image_size=64, val_fraction=0.2, test_fraction=0.2
    )
    prepare(again)
    (first,), (second,) = ((open_dataset(place).parts("train")) for place in (chain.dataset, str(tmp_path)))
    assert pq.read_table(f"{chain.dataset}/{first.path}").equals(pq.read_table(tmp_path / second.path))


def test_uris_outside_the_catalog_need_an_image_root(chain: Chain, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "catalog.parquet"
    moved.parent.mkdir()
    rows = chain.catalog_rows()
    uris = pa.array([f"{chain.catalog}/{uri}" for uri in rows.column("uri").to_pylist()])
    pq.write_table(rows.set_column(rows.column_names.index("uri"), "uri", uris), moved)
    with pytest.raises(DataError, match="no training image .* FORBIDDEN"):
        prepare(PrepareConfig(catalog=str(moved), out=str(tmp_path / "refused")))
    assert not Folder(str(tmp_path / "refused")).entries()
    allowed = prepare(
        PrepareConfig(catalog=str(moved), out=str(tmp_path / "allowed"), image_root=(chain.catalog,))
    )
    assert allowed["rows"]["train"] > 0


def test_a_finished_dataset_is_not_overwritten(chain: Chain) -> None:
    before = (Path(chain.dataset) / "dataset.json").read_bytes()
    with pytest.raises(DataError, match="already holds a dataset"):
        prepare(PrepareConfig(catalog=chain.catalog, out=chain.dataset))
    assert (Path(chain.dataset) / "dataset.json").read_bytes() == before


def test_what_stands_in_the_output_already_is_left_alone(chain: Chain, tmp_path: Path) -> None:
    old = tmp_path / "split=train" / "part-old.parquet"
    old.parent.mkdir()
    old.write_bytes(b"somebody's")
    prepare(PrepareConfig(catalog=chain.catalog, out=str(tmp_path), image_size=64))
    assert old.read_bytes() == b"somebody's"
    assert all(
        part.path != "split=train/part-old.parquet" for part in open_dataset(str(tmp_path)).parts("train")
    )


def test_the_catalogs_own_folder_is_never_written(chain: Chain, tmp_path: Path) -> None:
    hive = tmp_path / "split=train"
    hive.mkdir()
    pq.write_table(chain.catalog_rows(), hive / "part-0.parquet")
    for out in (tmp_path, tmp_path / "dataset"):
        with pytest.raises(ConfigError, match="never written"):
            prepare(PrepareConfig(catalog=str(tmp_path), out=str(out)))
    assert [path.name for path in tmp_path.rglob("*")] == ["split=train", "part-0.parquet"]


@pytest.mark.endurance
def test_a_shard_beyond_two_gibibytes_is_written(tmp_path: Path) -> None:
    import numpy as np

    from pix2score.dataset.card import dataset_schema
    from pix2score.dataset.shards import ShardWriter
    from pix2score.heads.presets import preset

    heads = preset("pixiv")[:1]
    image = np.random.default_rng(0).bytes(2**21)
    blocks = [
        pa.table(
            {
                "illust_id": pa.array(range(i * 100, i * 100 + 100)),
                "page": pa.array([0] * 100, pa.int32()),
                "group": ["a"] * 100,
                "split": ["train"] * 100,
                "data": pa.array([image] * 100, pa.binary()),
                "error_code": pa.nulls(100, pa.string()),
                "bookmark_label": pa.array([5] * 100),
            }
        )
        for i in range(11)
    ]
    schema = dataset_schema(pa.int64(), heads, [("bookmark", pa.int64())])
    write = ShardWriter(out=Folder(str(tmp_path)), heads=heads, schema=schema, staged="staged/x")
    (shard,) = write("piece", pa.concat_tables(blocks)).shards
    metadata = pq.read_metadata(tmp_path / shard.path)
    assert metadata.num_rows == 1100
    assert max(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)) < 64 * 2**20


def test_the_summary_stands_beside_the_output(chain: Chain) -> None:
    summary = json.loads((Path(chain.dataset) / "summary.json").read_text())
    assert summary == json.loads(json.dumps(chain.prepared))


def noise_catalog(root: Path, num: int) -> str:
    """A catalog of small pictures that all stand in ``root/images``."""
    (root / "images").mkdir(parents=True)
    for i in range(num):
        (root / "images" / f"{i}.png").write_bytes(picture(i))
    labels = {
        "bookmarks": [i % 97 for i in range(num)],
        "views": [i * 31 % 40_000 for i in range(num)],
        "sanity": [i % 7 for i in range(num)],
    }
    return write_catalog(
        str(root), {"illust_id": range(num), "uri": [f"images/{i}.png" for i in range(num)], **labels}
    )


def hide(catalog: str, numbers: range) -> Path:
    """These pictures are away, in the folder that comes back."""
    away = Path(catalog).with_name("away")
    away.mkdir()
    for i in numbers:
        (Path(catalog) / "images" / f"{i}.png").rename(away / f"{i}.png")
    return away


def bring_back(catalog: str, away: Path) -> None:
    for path in list(away.iterdir()):
        path.rename(Path(catalog) / "images" / path.name)


@pytest.mark.slow
def test_a_share_of_failures_over_the_limit_makes_no_dataset_and_what_is_done_is_resumed(
    tmp_path: Path,
) -> None:
    catalog = noise_catalog(tmp_path / "catalog", 240)
    away = hide(catalog, range(120))
    config = PrepareConfig(catalog=catalog, out=str(tmp_path / "out"), image_size=64)
    with pytest.raises(
        LimitError, match=r"120 of 240 images failed \(120 NOT_FOUND\), over --max-failed 0.05"
    ):
        prepare(config)
    assert not (tmp_path / "out" / "dataset.json").exists()
    bring_back(catalog, away)
    for i in range(120, 240):
        (Path(catalog) / "images" / f"{i}.png").unlink()  # done already: nothing fetches them again
    found = prepare(replace(config, max_failed=0.5))
    assert (sum(found["rows"].values()), found["dropped"]["failed_images"]) == (240, {})
    dataset = pds.dataset(tmp_path / "out", format="parquet", partitioning="hive", exclude_invalid_files=True)
    assert sorted(dataset.to_table(columns=["illust_id"]).column("illust_id").to_pylist()) == list(range(240))
    assert not list((tmp_path / "out").rglob("failed/*"))


def test_a_place_where_no_image_is_found_stops_with_the_limits_code(tmp_path: Path) -> None:
    catalog = noise_catalog(tmp_path / "catalog", 210)
    hide(catalog, range(210))
    with pytest.raises(LimitError, match=r"the first 210 images are all missing, .* \(210 NOT_FOUND\)"):
        prepare(PrepareConfig(catalog=catalog, out=str(tmp_path / "out"), image_size=64, max_failed=1))


@pytest.mark.slow
def test_a_staged_key_of_another_catalog_does_not_stand_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = noise_catalog(tmp_path / "catalog", 30)
    config = PrepareConfig(catalog=catalog, out=str(tmp_path / "out"), image_size=64, val_fraction=0.2)
    with monkeypatch.context() as patch:
        patch.setattr("pix2score.prepare.job.publish_card", _killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(config)
    (receipt,) = (tmp_path / "out").glob("staged/*/piece-*.json")
    (shard,) = [s for s in json.loads(receipt.read_text())["shards"] if s["split"] == "train"]
    path = tmp_path / "out" / shard["path"]
    ids = pq.read_table(path)
    ids = ids.set_column(0, ids.schema.field(0), pa.array(range(1000, 1000 + len(ids))))
    pq.write_table(ids, path)
    receipt.write_text(
        receipt.read_text().replace(f'"bytes": {shard["bytes"]}', f'"bytes": {path.stat().st_size}')
    )
    assert sum(prepare(config)["rows"].values()) == 30
    assert sorted(id_ for split in SPLITS for id_ in _ids(tmp_path / "out", split)) == list(range(30))


def test_two_attempts_that_did_the_same_images_leave_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = noise_catalog(tmp_path / "catalog", 30)
    config = PrepareConfig(catalog=catalog, out=str(tmp_path / "out"), image_size=64, val_fraction=0.2)
    with monkeypatch.context() as patch:
        patch.setattr("pix2score.prepare.job.publish_card", _killed)
        patch.setattr(
            "pix2score.prepare.job.staged_shards", lambda *args: []
        )  # both begun before either had staged anything
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                prepare(config)
    assert sum(prepare(config)["rows"].values()) == 30
    assert sorted(id_ for split in SPLITS for id_ in _ids(tmp_path / "out", split)) == list(range(30))
    assert not list((tmp_path / "out" / "staged").rglob("*.json"))


def _killed(*args: object) -> None:
    raise KeyboardInterrupt


def _ids(out: Path, split: str) -> list[int]:
    """Of every file that stands there, named by dataset.json or not."""
    found: list[int] = []
    for path in (out / f"split={split}").glob("*.parquet"):
        found += pq.ParquetFile(path).read(columns=["illust_id"]).column(0).to_pylist()
    return found
