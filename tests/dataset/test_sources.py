"""Several catalogs as one plan: whose row counts, its source, its weight, and labels on another scale."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pix2score.catalog.catalog import Columns
from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.several import open_catalogs
from pix2score.cli.flags import resolve
from pix2score.dataset.plan import SplitRule, plan_dataset
from pix2score.dataset.sources import SourceRules, described_sources
from pix2score.errors import ConfigError, DataError
from pix2score.heads.ordered import OrderedHead
from pix2score.heads.spec import HeadSpec
from pix2score.heads.value import ValueHead
from pix2score.prepare.config import PrepareConfig
from pix2score.storage.folder import Folder
from tests.support.builders import planned_rows, write_catalog

BEAUTY = ValueHead(name="beauty", column="beauty", range=(-1, 1))
A = {"illust_id": [1, 2, 3], "uri": ["1.png", "/else/2.png", "s3://b/3"], "beauty": [0.1, 0.2, 0.3]}
B = {"illust_id": [3, 4, 5], "uri": ["3.png", "4.png", "5.png"], "beauty": [1, 2, -9]}
RULE = SplitRule(val_fraction=0.0, test_fraction=0.0, max_pages=4)


def planned(
    root: Path,
    *tables: dict[str, Any],
    heads: tuple[HeadSpec, ...] = (BEAUTY,),
    columns: Columns | None = None,
    sources: dict[str, Any] | None = None,
    rule: SplitRule = RULE,
    **extras: str,
) -> tuple[dict[int, dict[str, Any]], PlanCounts]:
    """Rows of the plan of catalogs ``root/0``, ``root/1`` … by id, and what became of the others."""
    places = [write_catalog(str(root / str(i)), pa.table(table)) for i, table in enumerate(tables)]
    catalogs = open_catalogs(places, columns or Columns(), heads, extras)
    rules = SourceRules.of(
        sources or {}, has_source=len(tables) > 1 or "source" in extras, has_weight="weight" in extras
    )
    rules.check(heads)
    out = Folder(str(root / "out"))
    parts, counts, _ = plan_dataset(catalogs, heads, rule, out, "plan", (), None, rules)
    return {row["illust_id"]: row for row in planned_rows(out, parts)}, counts


def wide(name: str = "beauty") -> ValueHead:
    """A head without a range."""
    return ValueHead(name=name, column="beauty")


def test_of_a_key_of_two_catalogs_the_first_ones_row_counts(tmp_path: Path) -> None:
    rows, counts = planned(tmp_path, A, B, heads=(wide(),))
    assert {i: (row["source"], row["beauty_label"]) for i, row in rows.items()} == {
        1: ("0", 0.1),
        2: ("0", 0.2),
        3: ("0", 0.3),
        4: ("1", 2.0),
        5: ("1", -9.0),
    }
    assert counts.sources == {"0": {"train": 3}, "1": {"key_of_another": 1, "train": 2}}
    assert (counts.key_of_another, counts.catalog_rows, counts.planned) == (1, 6, 5)
    assert "1 left out, as an earlier catalog has their key" in described_sources(counts)[1]


def test_every_uri_is_found_below_its_own_catalog(tmp_path: Path) -> None:
    rows, _ = planned(tmp_path, A, B, heads=(wide(),))
    assert {i: row["uri"] for i, row in rows.items()} == {
        1: f"{tmp_path}/0/1.png",
        2: "/else/2.png",
        3: "s3://b/3",
        4: f"{tmp_path}/1/4.png",
        5: f"{tmp_path}/1/5.png",
    }


def test_one_catalog_without_sources_is_planned_as_ever(tmp_path: Path) -> None:
    rows, counts = planned(tmp_path, A)
    assert not {"source", "weight"} & set(rows[1])
    assert rows[1]["uri"] == "1.png"
    assert not {"sources", "relabelled", "key_of_another", "bad_weight"} & counts.to_dict().keys()
    plain = PrepareConfig(catalog="a", out="b").plain()
    assert plain["catalog"] == "a"
    assert not {"sources", "source_column", "weight_column"} & plain.keys()


def test_a_column_says_the_source_and_a_row_without_is_of_its_catalog(tmp_path: Path) -> None:
    given = {**A, "rater": [7, None, 9]}
    rows, counts = planned(tmp_path, given, source="rater")
    assert {i: row["source"] for i, row in rows.items()} == {1: "7", 2: "0", 3: "9"}
    assert counts.sources == {source: {"train": 1} for source in ("0", "7", "9")}


def test_a_weight_is_the_rows_own_times_its_sources(tmp_path: Path) -> None:
    given = {**B, "sure": [0.5, 0.25, None]}
    rows, _ = planned(tmp_path, A, given, heads=(wide(),), sources={"1": {"weight": 2}}, weight="sure")
    assert {i: row["weight"] for i, row in rows.items()} == {1: 1, 2: 1, 3: 1, 4: 0.5, 5: 2}


def test_rows_of_a_weight_that_is_none_are_left_out_and_counted(tmp_path: Path) -> None:
    table = {
        "illust_id": range(6),
        "uri": ["a"] * 6,
        "beauty": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "w": ["-1", "inf", "much", "0", None, "1.5"],
    }
    rows, counts = planned(tmp_path, table, weight="w")
    assert {i: row["weight"] for i, row in rows.items()} == {3: 0, 4: 1, 5: 1.5}
    assert (counts.bad_weight, counts.planned) == (3, 3)


def test_labels_of_a_source_move_along_its_line_and_stay_within_the_range(tmp_path: Path) -> None:
    given = {"illust_id": [4, 5, 6, 7, 8], "uri": ["b"] * 5, "beauty": [3, 1000, -9, None, math.nan]}
    rows, counts = planned(
        tmp_path,
        A,
        given,
        heads=(BEAUTY, wide("raw")),
        sources={"1": {"relabel": {"beauty": [0.25, -0.5]}}},
    )  # 3 is beyond the range on the scale of its source, and within on that of the head
    found = {i: (row["beauty_label"], row["raw_label"]) for i, row in rows.items()}
    assert found == {1: (0.1, 0.1), 2: (0.2, 0.2), 3: (0.3, 0.3), 4: (0.25, 3), 5: (1, 1000), 6: (-1, -9)}
    assert counts.relabelled == {"beauty": {"1": {"labels": 3, "clipped": 2}}}
    assert counts.dropped_labels["beauty"] == {"not_finite": 1}


def test_labels_are_moved_before_they_are_binned(tmp_path: Path) -> None:
    head = OrderedHead(name="beauty", column="beauty", edges=(1.5,))
    whole = {**A, "beauty": [1, 2, 3]}
    given = {"illust_id": [7, 8], "uri": ["a", "b"], "beauty": [1, 9]}
    rows, counts = planned(
        tmp_path, whole, given, heads=(head,), sources={"1": {"relabel": {"beauty": [0.5, -1]}}}
    )
    found = {i: row["beauty_label"] for i, row in rows.items()}
    assert found == {1: 1, 2: 2, 3: 3, 7: 0, 8: 3.5}
    assert head.encode(pa.array([found[i] for i in (1, 7, 8)])).to_pylist() == [0, 0, 1]
    assert counts.relabelled["beauty"]["1"] == {"labels": 2, "clipped": 1}


def test_a_group_of_two_catalogs_stays_in_one_split(tmp_path: Path) -> None:
    num = 60
    one = {
        "illust_id": range(num),
        "uri": ["a"] * num,
        "beauty": [i / num for i in range(num)],
        "artist_id": [i % 20 for i in range(num)],
        "set": [("train", "val", "test")[i % 20 % 3] for i in range(num)],
    }
    other = {**one, "illust_id": range(100, 100 + num), "artist_id": [i % 40 for i in range(num)]}
    del other["set"]
    halves = SplitRule(val_fraction=0.3, test_fraction=0.3, max_pages=4)
    rows, _ = planned(tmp_path, one, other, columns=Columns(split="set"), rule=halves)
    splits: dict[str, set[str]] = {}
    for row in rows.values():
        splits.setdefault(row["group"], set()).add(row["split"])
    assert len(splits) == 40
    assert all(len(found) == 1 for found in splits.values())
    assert all(splits[str(i)] == {("train", "val", "test")[i % 3]} for i in range(20))
    assert len(set.union(*(splits[str(i)] for i in range(20, 40)))) == 3  # those by hash


def test_a_catalog_may_lack_labels_that_another_has(tmp_path: Path) -> None:
    likes = OrderedHead(name="likes", column="likes", edges=(10,))
    rows, _ = planned(
        tmp_path, {**A, "likes": [5, 50, 5]}, {"illust_id": [9], "uri": ["9"], "beauty": ["0.5"]},
        heads=(BEAUTY, likes),
    )  # fmt: skip
    assert (rows[9]["beauty_label"], rows[9]["likes_label"], rows[2]["likes_label"]) == (0.5, None, 50)


def test_what_no_catalog_has_is_named_with_what_they_have(tmp_path: Path) -> None:
    head = ValueHead(name="beauty", column="beautty")
    with pytest.raises(DataError, match="none of the catalogs has a column 'beautty'.*beauty"):
        planned(tmp_path, A, B, heads=(head,))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({**B, "illust_id": ["3", "4", "5"]}, "ids of both as integers or both as text"),
        ({"illust_id": [8], "image": [b"x"], "beauty": [1]}, "embeds its images and"),
    ],
)
def test_catalogs_that_do_not_go_together_are_refused(
    tmp_path: Path, other: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        planned(tmp_path, A, other)


def test_a_source_that_no_row_has_is_named_with_the_nearest(tmp_path: Path) -> None:
    given = {**A, "rater": ["club", "club", "web"]}
    with pytest.raises(ConfigError, match=r"sources\.clubs\].*did you mean club\?.*club, web"):
        planned(tmp_path, given, source="rater", sources={"clubs": {"weight": 2}})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"wieght": 1}, r"unknown key 'wieght'; known: weight, relabel"),
        ({"weight": -1}, r"\[sources.1\] weight = -1: expected a number of 0 or more"),
        ({"relabel": 3}, r"relabel = 3: expected HEAD = \[slope, offset\]"),
        ({"relabel": {"bookmark": [1]}}, r"bookmark = \[1\]: expected"),
        ({"relabel": {"beuty": [1, 0]}}, r"head 'beuty' is not known; heads: bookmark"),
        ({"relabel": {"liked": [1, 0]}}, r"'liked' is of kind binary, whose labels are no numbers"),
    ],
)
def test_a_table_of_a_source_that_is_wrong_says_what_is(table: dict[str, Any], message: str) -> None:
    heads = (
        {"name": "bookmark", "column": "b", "size": 5},
        {"name": "liked", "column": "l", "kind": "binary"},
    )
    with pytest.raises(ConfigError, match=message):
        PrepareConfig(catalog="a", out="b", heads=heads, sources={"1": table})


def test_a_catalog_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="a is given more than once"):
        PrepareConfig(catalog=("a", "a"), out="b")


def test_catalogs_are_given_by_flags_or_by_a_list_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prepare.toml"
    file.write_text('catalog = ["a", "b"]\n[sources.1]\nweight = 0.5\n')
    found = resolve(PrepareConfig, ["--config", str(file), "--out", "o"])
    assert (found.catalogs, found.rules().weights) == (("a", "b"), {"1": 0.5})
    assert resolve(PrepareConfig, ["--catalog", "a", "--out", "o"]).catalog == "a"
    assert resolve(PrepareConfig, ["--catalog", "c", "--catalog", "d", "--out", "o"]).catalogs == ("c", "d")
    file.write_text('catalog = "a"\nsources = 3\n')
    with pytest.raises(ConfigError, match=r"sources must be tables by name here, such as \[sources.NAME\]"):
        resolve(PrepareConfig, ["--config", str(file), "--out", "o"])
