"""Groups of near-identical pictures that span splits: told, counted, and mended where asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pix2score.catalog.catalog import Columns
from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.several import open_catalogs
from pix2score.dataset.near_identical import Rule, open_near_identical, spanning_warnings
from pix2score.dataset.plan import SplitRule, plan_dataset
from pix2score.errors import ConfigError, DataError
from pix2score.heads.value import ValueHead
from pix2score.prepare.config import PrepareConfig
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from tests.support.builders import planned_rows, write_catalog

HEAD = ValueHead(name="beauty", column="beauty")
SPLITS = {1: "train", 2: "test", 3: "val", 4: "train", 5: "train", 6: "train", 7: "val", 8: "train"}
ROWS = {
    "illust_id": list(SPLITS),
    "uri": [f"{i}.png" for i in SPLITS],
    "beauty": [0.1 * i for i in SPLITS],
    "split": list(SPLITS.values()),
}
GROUPS = {"group": [0, 0, 0, 1, 1, 2, 2, 2], "illust_id": [1, 2, 3, 4, 5, 6, 7, 99], "page": [0] * 8}


def planned(root: Path, rule: Rule, groups: dict[str, Any] = GROUPS) -> tuple[set[int], PlanCounts]:
    """Ids of the plan, and what became of the others."""
    place = write_catalog(str(root / "catalog"), pa.table(ROWS))
    Folder(str(root)).publish("groups.parquet", parquet_bytes(pa.table(groups)), replace=True)
    catalogs = open_catalogs([place], Columns(split="split"), (HEAD,), {})
    alike, out = open_near_identical(str(root / "groups.parquet"), rule), Folder(str(root / "out"))
    split = SplitRule(val_fraction=0.1, test_fraction=0.1, max_pages=4)
    parts, counts, _ = plan_dataset(catalogs, (HEAD,), split, out, f"plan-{rule}", alike=alike)
    return {row["illust_id"] for row in planned_rows(out, parts)}, counts


def test_groups_that_span_splits_are_told_with_their_first_ids(tmp_path: Path) -> None:
    ids, counts = planned(tmp_path, "warn")
    assert ids == set(SPLITS)
    assert counts.to_dict()["near_identical"] == {
        "groups": 2,
        "rows": 5,
        "dropped": 0,
        "examples": [{"test": "2", "train": "1", "val": "3"}, {"train": "6", "val": "7"}],
    }
    (line,) = spanning_warnings(counts.near_identical)
    assert line.startswith("2 groups of near-identical pictures, 5 rows, span splits: what is measured")
    assert "2 in test, 1 in train, 3 in val; 6 in train, 7 in val" in line


def test_a_dropped_group_stays_in_test_before_val_before_train(tmp_path: Path) -> None:
    ids, counts = planned(tmp_path, "drop")
    assert ids == {2, 4, 5, 7, 8}
    assert (counts.planned, counts.near_identical["dropped"]) == (5, 3)
    assert "3 of their rows are left out" in spanning_warnings(counts.near_identical)[0]


def test_groups_within_a_split_and_ids_of_another_type_say_nothing(tmp_path: Path) -> None:
    ids, counts = planned(tmp_path, "drop", {"group": [1, 1, 2], "illust_id": ["4", "5", "none"]})
    assert ids == set(SPLITS)
    assert counts.near_identical["groups"] == 0
    assert not spanning_warnings(counts.near_identical)


def test_a_table_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; expected what jobs.duplicates wrote"):
        open_near_identical(str(tmp_path / "none.parquet"), "warn")
    Folder(str(tmp_path)).publish("other.parquet", parquet_bytes(pa.table({"illust_id": [1]})))
    with pytest.raises(DataError, match="has no column group; it has illust_id"):
        open_near_identical(str(tmp_path / "other.parquet"), "warn")


def test_settings_without_duplicates_are_those_of_datasets_before() -> None:
    plain = PrepareConfig(catalog="c", out="o").plain()
    assert not {"duplicates", "duplicates_rule"} & plain.keys()
    asked = PrepareConfig(catalog="c", out="o", duplicates="d.parquet").plain()
    assert (asked["duplicates"], asked["duplicates_rule"]) == ("d.parquet", "warn")
    with pytest.raises(ConfigError, match="give --duplicates FILE too"):
        PrepareConfig(catalog="c", out="o", duplicates_rule="drop")
