"""prepare of several catalogs, with real Ray Data."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pds
import pytest

from pix2score.catalog.originals import original_images
from pix2score.cli.flags import resolve
from pix2score.dataset.card import open_dataset
from pix2score.prepare.config import PrepareConfig
from pix2score.prepare.job import prepare
from tests.support.builders import write_catalog
from tests.support.drivers import picture

pytestmark = pytest.mark.usefixtures("ray_session")
NUM = 12


def catalog(root: Path, first: int, *, embedded: bool, **more: object) -> str:
    """``NUM`` pictures of their own colours, ids from ``first``; those in files have the same names."""
    ids, pictures = range(first, first + NUM), [picture(first + i) for i in range(NUM)]
    if embedded:
        images = {"image": pictures}
    else:
        root.mkdir()
        for i, data in enumerate(pictures):
            (root / f"{i}.png").write_bytes(data)
        images = {"uri": [f"{i}.png" for i in range(NUM)]}
    labels = {"beauty": [i % 5 for i in range(NUM)], **more}
    return write_catalog(str(root), {"illust_id": ids, "artist_id": ids, **images, **labels})


@pytest.mark.parametrize("embedded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_catalogs_become_one_dataset_of_their_own_pictures(tmp_path: Path, embedded: bool) -> None:
    first = catalog(tmp_path / "a", 0, embedded=embedded)
    second = catalog(tmp_path / "b", 100, embedded=embedded, sure=[0.5] * NUM)
    config = tmp_path / "prepare.toml"
    config.write_text(
        'weight_column = "sure"\nimage_size = 64\nval_fraction = 0.2\ntest_fraction = 0.2\n'
        "[sources.1]\nrelabel = {beauty = [2, 1]}\n"
        '[[heads]]\nname = "beauty"\nkind = "value"\ncolumn = "beauty"\n'
    )
    flags = ["--config", str(config), "--catalog", first, "--catalog", second]
    out = str(tmp_path / "out")
    summary = prepare(resolve(PrepareConfig, [*flags, "--out", out]))
    rows = pds.dataset(out, format="parquet", exclude_invalid_files=True).to_table().to_pylist()
    assert sorted(row["illust_id"] for row in rows) == [*range(NUM), *range(100, 100 + NUM)]
    for row in rows:
        number, is_second = row["illust_id"] % 100, row["illust_id"] >= 100
        assert row["image"] == picture(row["illust_id"])
        assert (row["source"], row["weight"]) == (("1", 0.5) if is_second else ("0", 1.0))
        assert row["beauty_label"] == (2 * (number % 5) + 1 if is_second else number % 5)
    dataset = open_dataset(out)
    assert dataset.catalogs == [first, second]
    assert summary["dropped"]["sources"]["1"] == {
        split: sum(row["illust_id"] >= 100 and row["split"] == split for row in with_split(out))
        for split in summary["dropped"]["sources"]["1"]
    }
    found = [original_images(place, dataset.card["config"], [(3, 0), (103, 0)]) for place in dataset.catalogs]
    assert [list(images) for images in found] == [[(3, 0)], [(103, 0)]]


def with_split(out: str) -> list[dict[str, object]]:
    """Ids of a dataset with their splits."""
    table: pa.Table = pds.dataset(
        out, format="parquet", partitioning="hive", exclude_invalid_files=True
    ).to_table(columns=["illust_id", "split"])
    return table.to_pylist()
