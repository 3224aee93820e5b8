"""A table of comparisons becomes rows that hold whole sets; what cannot is counted by why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.several import Catalogs
from pix2score.dataset.comparisons import described, open_comparisons
from pix2score.dataset.plan import SplitRule, plan_dataset
from pix2score.errors import ConfigError, DataError
from pix2score.heads.compared import FIRST_PAGE, MAX_IMAGES
from pix2score.heads.ordered import OrderedHead
from pix2score.heads.preference import PreferenceHead
from pix2score.heads.spec import HeadSpec
from pix2score.prepare.config import PrepareConfig
from pix2score.storage.folder import Folder
from tests.support.builders import planned_rows, write_catalog

LIKED = PreferenceHead(name="liked")
COUNTED = OrderedHead(name="n", column="n", edges=(3,))
SPLITS = ["train"] * 30 + ["val"] * 2 + ["test"] * 2
Row = dict[str, Any]


def table(place: Path, rows: Sequence[Row], ids: pa.DataType | None = None) -> str:
    columns: dict[str, Any] = {
        name: [row.get(name) for row in rows] for name in dict.fromkeys(n for row in rows for n in row)
    }
    if ids is not None:
        columns["illust_id"] = pa.array(columns["illust_id"]).cast(ids)
    pq.write_table(pa.table(columns), place / "comparisons.parquet")
    return str(place / "comparisons.parquet")


def planned(
    root: Path,
    rows: Sequence[Row],
    heads: Sequence[HeadSpec] = (LIKED,),
    done: Sequence[str] = (),
    **more: Any,
) -> tuple[list[Row], PlanCounts, Sequence[HeadSpec]]:
    number = range(len(SPLITS))
    columns = {"illust_id": number, "uri": [f"{i}.png" for i in number], "split": SPLITS, "n": number}
    catalog = open_catalog(write_catalog(str(root / "catalog"), columns), Columns(split="split"), heads)
    comparisons, out = open_comparisons(table(root, rows, **more)), Folder(str(root / "out"))
    rule = SplitRule(val_fraction=0.1, test_fraction=0.1, max_pages=4)
    parts, counts, fitted = plan_dataset(
        Catalogs.of(catalog), heads, rule, out, "plan/rows", done, comparisons
    )
    return planned_rows(out, parts), counts, fitted


def ranked(name: str, *ids: int, **more: Any) -> list[Row]:
    """A set whose images are given best first."""
    return [{"set": name, "illust_id": id_, "rank": i + 1, **more} for i, id_ in enumerate(ids)]


def by_image(row: Row) -> dict[str, float]:
    """Uri -> rank."""
    uris = [row["uri"], *(other["uri"] for other in row["others"])]
    return dict(zip(uris, row["liked_label"][2:], strict=True))


def test_each_set_is_one_row_with_all_its_images_and_their_ranks(tmp_path: Path) -> None:
    rows, counts, (head,) = planned(tmp_path, [*ranked("a", 3, 1, 2), *ranked("b", 30, 31)])
    assert sorted(map(by_image, rows), key=len) == [
        {"30.png": 1, "31.png": 2},
        {"3.png": 1, "1.png": 2, "2.png": 3},
    ]
    assert sorted(row["split"] for row in rows) == ["train", "val"]
    assert counts.planned == 2
    assert counts.unlabelled == len(SPLITS) - 5
    assert (head.facts(), head.null_cost) == ({"sets": 1, "pairs": 3}, math.log(2))


def test_sets_stand_beside_rows_of_other_heads_and_their_keys_are_no_images(tmp_path: Path) -> None:
    rows, counts, _ = planned(tmp_path, [*ranked("a", 3, 1), *ranked("b", 3, 2)], (LIKED, COUNTED))
    sets = [row for row in rows if row["others"] is not None]
    assert len(rows) == counts.planned == len(SPLITS) + 2
    assert {row["page"] for row in sets} == {FIRST_PAGE - 1, FIRST_PAGE - 2}
    assert all(row["n_label"] is None for row in sets)
    assert all(row["liked_label"] is None for row in rows if row["others"] is None)
    assert counts.unlabelled == 0


def test_which_image_is_first_says_nothing_of_its_rank(tmp_path: Path) -> None:
    rows, *_ = planned(tmp_path, [row for i in range(200) for row in ranked(f"s{i}", i % 30, (i + 7) % 30)])
    num_best_first = sum(row["liked_label"][2] == 1 for row in rows)
    assert 70 < num_best_first < 130


def test_keys_and_rows_are_the_same_in_every_attempt_and_done_ones_are_left_out(tmp_path: Path) -> None:
    given = [row for i in range(20) for row in ranked(f"s{i}", i, i + 1)]
    first, *_ = planned(tmp_path / "1", given)
    second, *_ = planned(tmp_path / "2", given[::-1])
    assert str(first) == str(second)  # a NaN is not equal to itself
    folder = Folder(str(tmp_path / "3" / "out"))
    keys = pa.schema([("illust_id", pa.int64()), ("page", pa.int32())])
    folder.publish("done.parquet", b"")
    pq.write_table(pa.Table.from_pylist(first[:5], keys), folder.full("done.parquet"))
    left, counts, _ = planned(tmp_path / "3", given, done=["done.parquet"])
    assert (len(left), counts.planned) == (15, 20)


def test_what_cannot_be_compared_is_counted_by_why(tmp_path: Path) -> None:
    rows: list[Row] = [
        *ranked("fine", 0, 1),
        *ranked("unknown", 2, 999),
        *ranked("split", 3, 30),
        *ranked("large", *range(MAX_IMAGES + 1)),
        {"set": "ties", "illust_id": 4, "rank": 1},
        {"set": "ties", "illust_id": 5, "rank": 1},
        {"set": "twice", "illust_id": 4, "rank": 1},
        {"set": "twice", "illust_id": 4, "rank": 2},
        {"set": None, "illust_id": 4, "rank": 2},
        {"set": "no rank", "illust_id": 4, "rank": None},
    ]
    left, counts, _ = planned(tmp_path, rows)
    assert [by_image(row) for row in left] == [{"0.png": 1, "1.png": 2}]
    assert counts.comparisons["dropped_rows"] == {"no_rank": 1, "no_set": 1, "repeated": 1, "unknown_id": 1}
    assert counts.comparisons["dropped_sets"] == {
        "all_ties": 1,
        "cross_split": 1,
        "one_image": 2,
        "too_large": 1,
    }
    text = described(counts.comparisons)
    assert "1 of images of different splits" in text
    assert "kept 1 train sets of 2 images, 0 val sets" in text


def test_no_set_left_to_learn_from_is_an_error_with_the_counts(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="no set of the train split is left .* 1 of images of different splits"
    ):
        planned(tmp_path, [*ranked("a", 0, 30), *ranked("val", 30, 31)])


def test_ties_stay_and_ranks_may_have_gaps(tmp_path: Path) -> None:
    given = [{"set": "a", "illust_id": i, "rank": rank} for i, rank in ((0, 2.5), (1, 2.5), (2, 70))]
    (row,), _, (head,) = planned(tmp_path, given)
    assert by_image(row) == {"0.png": 1, "1.png": 1, "2.png": 2}
    assert head.facts() == {"sets": 1, "pairs": 2}


def test_weights_are_1_on_average_in_the_train_split_and_bad_ones_are_counted(tmp_path: Path) -> None:
    given = [
        *ranked("a", 0, 1, weight=1.0),
        *ranked("b", 0, 2, weight=3.0),
        *ranked("c", 0, 3, weight=-1.0),
        *ranked("v", 30, 31, weight=8.0),
    ]
    rows, counts, _ = planned(tmp_path, given)
    assert sorted(row["liked_label"][0] for row in rows) == [0.5, 1.5, 4.0]
    assert counts.comparisons["dropped_rows"] == {"bad_weight": 2}


def test_raters_of_one_set_are_sets_of_their_own_that_know_how_many_others_agree(tmp_path: Path) -> None:
    given = [
        *ranked("a", 0, 1, rater="x"),
        *ranked("a", 0, 1, rater="y"),
        *ranked("other name", 1, 0, rater="z"),
        *ranked("alone", 2, 3, rater="x"),
    ]
    rows, *_ = planned(tmp_path, given)
    agreement = {(min(by_image(r), key=by_image(r).get), r["liked_label"][1]) for r in rows}  # type: ignore[arg-type]
    known = {pair for pair in agreement if not math.isnan(pair[1])}
    assert known == {("0.png", 0.5), ("1.png", 0.0)}
    assert len(rows) == 4


def test_ids_may_be_of_another_type_than_the_catalogs(tmp_path: Path) -> None:
    (row,), *_ = planned(tmp_path, ranked("a", 7, 8), ids=pa.string())
    assert by_image(row) == {"7.png": 1, "8.png": 2}


def test_a_table_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file; expected one Parquet file"):
        open_comparisons(str(tmp_path / "nothing.parquet"))
    with pytest.raises(
        DataError, match="no column rank; it has set, illust_id; expected set, illust_id, rank"
    ):
        open_comparisons(table(tmp_path, [{"set": 1, "illust_id": 1}]))
    with pytest.raises(DataError, match="column rank is string, expected a number"):
        open_comparisons(table(tmp_path, [{"set": 1, "illust_id": 1, "rank": "best"}]))


PREFERENCE = {"name": "liked", "kind": "preference"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"heads": (PREFERENCE,)},
            "head 'liked' of kind preference learns from comparisons: give --comparisons",
        ),
        ({"comparisons": "c.parquet"}, "--comparisons c.parquet: no head learns from it"),
        (
            {"comparisons": "c.parquet", "heads": (PREFERENCE, {**PREFERENCE, "name": "b"})},
            "liked and b are both of kind preference; there is one table",
        ),
        ({"heads": ({**PREFERENCE, "column": "n"},)}, "kind preference has no column"),
    ],
)
def test_a_head_and_its_table_need_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrepareConfig(catalog="a", out="b", **settings)
