"""The plan: each key once, the newest row of it, splits that hold groups together and move nobody, labels
that stay exact."""

from __future__ import annotations

import decimal
import hashlib
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.rows import PlanCounts, estimated_rows, stored_fingerprint_sql
from pix2score.catalog.several import Catalogs
from pix2score.dataset.labels import described_labels
from pix2score.dataset.plan import SplitRule, described_splits, plan_dataset
from pix2score.errors import DataError
from pix2score.heads import bins
from pix2score.heads.ordered import OrderedHead
from pix2score.heads.spec import HeadSpec
from pix2score.nightly.plan import ScoringPlan, plan_scoring, scoring_schema
from pix2score.nightly.request import ScoringCounts, ScoringRequest
from pix2score.snapshots.pieces import Origin
from pix2score.snapshots.tables import Layout
from pix2score.storage.folder import Folder
from pix2score.storage.sql import engine
from tests.support.builders import HEADS, MODEL_VERSION, planned_rows, write_catalog

Rows = list[dict[str, Any]]
LEARNT = OrderedHead(name="bookmark", column="bookmarks", size=4)
GIVEN = OrderedHead(name="bookmark", column="bookmarks", edges=(10, 30))
RULE = SplitRule(val_fraction=0.2, test_fraction=0.2, max_pages=4)


def first_night(place: str, folder: Folder, columns: Columns | None = None, **options: Any) -> ScoringPlan:
    """The plan of a night with no live snapshot."""
    catalog = open_catalog(place, columns or Columns())
    layout = Layout(catalog.id_type, HEADS, 4, "float16")
    request = ScoringRequest(
        origin=Origin(run="run", model_version=MODEL_VERSION, parent=0), layout=layout, **options
    )
    return plan_scoring(catalog, folder, "staged/run/plan", request)


def scoring(place: str, columns: Columns | None = None, **options: Any) -> tuple[Rows, ScoringCounts]:
    """The planned rows of the catalog at ``place`` and the counts."""
    with tempfile.TemporaryDirectory() as out:
        plan = first_night(place, Folder(out), columns, **options)
        return planned_rows(Folder(out), plan.parts), plan.counts


def dataset(
    place: str, heads: tuple[HeadSpec, ...] = (GIVEN,), rule: SplitRule = RULE, columns: Columns | None = None
) -> tuple[Rows, PlanCounts, list[HeadSpec]]:
    catalog = open_catalog(place, columns or Columns(), heads)
    with tempfile.TemporaryDirectory() as out:
        folder = Folder(out)
        parts, counts, fitted = plan_dataset(Catalogs.of(catalog), heads, rule, folder, "plan/part")
        return planned_rows(folder, parts), counts, fitted


def keys(rows: Rows) -> list[tuple[Any, int]]:
    return [(row["illust_id"], row["page"]) for row in rows]


def works(number: int, **more: Any) -> dict[str, Any]:
    """A catalog of ``number`` works of ten per artist, labelled 0, 1, 2 …"""
    ids = list(range(number))
    plain = {
        "illust_id": ids,
        "uri": [f"{i}.png" for i in ids],
        "artist_id": [i // 10 for i in ids],
        "bookmarks": ids,
    }
    return {**plain, **more}


def test_a_plan_holds_every_key_in_parts_of_the_documented_schema(place: str) -> None:
    write_catalog(
        place,
        {
            "illust_id": [1, 1, 2],
            "page": [0, 1, 0],
            "uri": ["a", "b", "c"],
            "artist_id": [7, 7, 8],
            "etag": ["x", "y", None],
        },
    )
    folder = Folder(place) / "out"
    plan = first_night(place, folder)
    counts = plan.counts
    assert [part.path for part in plan.parts] == ["staged/run/plan/rows-00000.parquet"]
    assert pa.parquet.read_schema(pa.BufferReader(folder.read(plan.parts[0].path))).equals(
        scoring_schema(pa.int64())
    )
    rows = sorted(planned_rows(folder, plan.parts), key=lambda row: (row["illust_id"], row["page"]))
    nothing = {"file": None, "row": None, "split": None, "attempts": 0, "is_retry": False}
    nothing["reason"] = "new"
    assert rows == [
        {"illust_id": 1, "page": 0, "uri": "a", "fingerprint": "etag:x", "group": "7", **nothing},
        {"illust_id": 1, "page": 1, "uri": "b", "fingerprint": "etag:y", "group": "7", **nothing},
        {"illust_id": 2, "page": 0, "uri": "c", "fingerprint": "uri:c", "group": "8", **nothing},
    ]
    assert (counts.catalog_rows, counts.planned) == (3, 3)


def test_page_and_group_have_their_defaults(tmp_path: Path) -> None:
    place = write_catalog(
        str(tmp_path), {"illust_id": ["x", "y"], "uri": ["a", "b"], "page": pa.array([None, 2], pa.int16())}
    )
    rows, _ = scoring(place)
    assert sorted((row["illust_id"], row["page"], row["group"]) for row in rows) == [
        ("x", 0, "x"),
        ("y", 2, "y"),
    ]


def test_rows_without_an_id_are_dropped_and_counted(tmp_path: Path) -> None:
    rows, counts = scoring(
        write_catalog(str(tmp_path), {"illust_id": [1, None, 2, None], "uri": ["a", "b", "c", "d"]})
    )
    assert sorted(keys(rows)) == [(1, 0), (2, 0)]
    assert (counts.catalog_rows, counts.null_id, counts.duplicate_key, counts.planned) == (4, 2, 0, 2)


def test_of_rows_with_one_key_the_greatest_update_then_fingerprint_then_uri_wins(tmp_path: Path) -> None:
    table = {
        "illust_id": [1, 1, 1, 2, 2, 3, 3, 4, 4],
        "updated_at": [5, 9, 7, 1, 1, 1, 1, None, 1],
        "etag": ["c", "a", "b", "a", "b", "a", "a", "z", "a"],
        "uri": ["u1", "u2", "u3", "z", "y", "u6", "u7", "u8", "u9"],
    }
    rows, counts = scoring(write_catalog(str(tmp_path), table))
    assert {row["illust_id"]: row["uri"] for row in rows} == {1: "u2", 2: "y", 3: "u7", 4: "u9"}
    assert counts.duplicate_key == 5


def test_embedded_images_are_planned_by_file_and_row_with_the_hash_of_their_bytes(tmp_path: Path) -> None:
    place = write_catalog(
        str(tmp_path), {"illust_id": [1, 2], "image": pa.array([b"one", b"two"])}, "a.parquet"
    )
    write_catalog(place, {"illust_id": [3], "image": pa.array([b"three"])}, "b.parquet")
    rows, _ = scoring(place)
    found = {row["illust_id"]: (row["file"], row["row"], row["fingerprint"]) for row in rows}
    sha = {word: "sha256:" + hashlib.sha256(word.encode()).hexdigest() for word in ("one", "two", "three")}
    assert found == {
        1: ("a.parquet", 0, sha["one"]),
        2: ("a.parquet", 1, sha["two"]),
        3: ("b.parquet", 0, sha["three"]),
    }


def test_fingerprints_are_stored_with_their_kind(tmp_path: Path) -> None:
    table = {"illust_id": [1], "uri": ["a"], "updated_at": [77], "o'clock": ["x"]}
    place = write_catalog(str(tmp_path), table)
    for columns, expected in (
        (Columns(), "uri:a"),
        (Columns(fingerprint="updated_at"), "updated_at:77"),
        (Columns(fingerprint="o'clock"), "o'clock:x"),
    ):
        assert scoring(place, columns)[0][0]["fingerprint"] == expected


def test_dictionary_and_large_string_columns_are_planned(tmp_path: Path) -> None:
    table = {
        "illust_id": pa.array(["x", "y"]).dictionary_encode(),
        "uri": pa.array(["a", "b"], pa.large_string()),
        "artist_id": pa.array(["p", "p"]).dictionary_encode(),
        "bookmarks": pa.array([4, 5]).dictionary_encode(),
    }
    rows, _, _ = dataset(write_catalog(str(tmp_path), table))
    assert sorted((row["illust_id"], row["uri"], row["group"], row["bookmark_label"]) for row in rows) == [
        ("x", "a", "p", 4),
        ("y", "b", "p", 5),
    ]


ANY_CATALOG = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-3, 3), st.just(2**62)),
        st.one_of(st.none(), st.integers(0, 2)),
        st.one_of(st.none(), st.sampled_from(["a", "b"])),
        st.one_of(st.none(), st.integers(0, 2)),
        st.one_of(st.none(), st.sampled_from("xy")),
    ),
    min_size=1,
    max_size=25,
)


def each_key_is_planned_exactly_once(rows: list[tuple[Any, ...]], part_of: int) -> None:
    names = {
        "illust_id": pa.int64(),
        "page": pa.int32(),
        "uri": pa.string(),
        "updated_at": pa.int64(),
        "etag": pa.string(),
    }
    columns = {name: pa.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(names.items())}
    expected = {(row[0], row[1] or 0) for row in rows if row[0] is not None}
    with tempfile.TemporaryDirectory() as place:
        write_catalog(place, pa.table(columns).slice(0, part_of), "a.parquet")
        write_catalog(place, pa.table(columns).slice(part_of), "b.parquet")
        if not expected:
            with pytest.raises(DataError):
                scoring(place)
            return
        planned, counts = scoring(place)
    assert Counter(keys(planned)) == Counter(expected)
    assert counts.catalog_rows == len(rows)
    assert counts.catalog_rows - counts.null_id - counts.duplicate_key == counts.planned == len(expected)


test_any_catalog_is_planned_with_each_key_exactly_once = settings(max_examples=10)(
    given(ANY_CATALOG, st.integers(1, 25))(each_key_is_planned_exactly_once)
)
test_many_catalogs_are_planned_with_each_key_exactly_once = pytest.mark.slow(
    settings(max_examples=40)(given(ANY_CATALOG, st.integers(1, 25))(each_key_is_planned_exactly_once))
)


def test_the_plan_does_not_depend_on_the_order_of_the_rows(tmp_path: Path) -> None:
    table = pa.table({**works(500), "updated_at": [1] * 500})
    doubled = pa.concat_tables([table, table.set_column(1, "uri", pa.array([f"new{i}" for i in range(500)]))])
    shuffled = doubled.take(np.random.default_rng(0).permutation(1000))
    first, _ = scoring(write_catalog(str(tmp_path / "a"), doubled))
    second, _ = scoring(write_catalog(str(tmp_path / "b"), shuffled))
    assert first == second


def test_the_order_of_work_is_mixed(tmp_path: Path) -> None:
    rows, _ = scoring(write_catalog(str(tmp_path), works(2000)))
    ids = np.array([row["illust_id"] for row in rows])
    assert abs(np.corrcoef(ids, np.arange(2000))[0, 1]) < 0.1


def test_parts_have_the_asked_number_of_rows(tmp_path: Path) -> None:
    place = write_catalog(str(tmp_path), {"illust_id": list(range(40_000)), "uri": ["a"] * 40_000})
    plan = first_night(place, Folder(str(tmp_path / "out")))
    assert [part.rows for part in plan.parts] == [16_384, 16_384, 7_232]


def test_a_limit_plans_only_so_many(tmp_path: Path) -> None:
    rows, counts = scoring(write_catalog(str(tmp_path), works(100)), limit=7)
    assert (len(set(keys(rows))), counts.planned, counts.limited, counts.to_score) == (7, 100, 93, 7)


@pytest.mark.parametrize("ids", [[], [None, None]])
def test_a_catalog_without_rows_is_refused_and_nothing_is_written(place: str, ids: list[Any]) -> None:
    table = {
        "illust_id": pa.array(ids, pa.int64()),
        "uri": pa.array(["a"] * len(ids), pa.string()),
        "bookmarks": pa.array([1] * len(ids), pa.int64()),
    }
    write_catalog(place, table)
    out = Folder(f"{place}-out")
    with pytest.raises(DataError, match="no rows with an id"):
        first_night(place, out)
    with pytest.raises(DataError, match="no rows with an id"):
        plan_dataset(Catalogs.of(open_catalog(place, Columns(), [GIVEN])), [GIVEN], RULE, out, "plan")
    assert out.entries() == []


# Datasets: splits, pages, labels, edges.


def splits_by_group(rows: Rows) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        found[row["group"]].add(row["split"])
    return found


def test_a_group_never_stands_in_two_splits_and_shares_are_about_right(tmp_path: Path) -> None:
    rows, _, _ = dataset(write_catalog(str(tmp_path), works(5000)))
    assert all(len(splits) == 1 for splits in splits_by_group(rows).values())
    shares = Counter(row["split"] for row in rows)
    assert 800 < shares["val"] < 1200
    assert 800 < shares["test"] < 1200


def test_a_growing_catalog_moves_nobody(tmp_path: Path) -> None:
    few, _, _ = dataset(write_catalog(str(tmp_path / "a"), works(300)))
    many, _, _ = dataset(write_catalog(str(tmp_path / "b"), works(1000)))
    before = {key: row["split"] for key, row in zip(keys(few), few, strict=True)}
    after = {key: row["split"] for key, row in zip(keys(many), many, strict=True)}
    assert before.items() <= after.items()


def test_the_split_of_a_group_is_pinned(tmp_path: Path) -> None:
    # Another hash would move artists from train to test between two versions, and tests would measure what
    # was trained on.
    rows, _, _ = dataset(write_catalog(str(tmp_path), works(100)))
    found = {int(group): next(iter(splits)) for group, splits in splits_by_group(rows).items()}
    draws = {
        g: int.from_bytes(hashlib.md5(f"split/{g}".encode()).digest()[8:], "little") / 2**64
        for g in range(10)
    }
    assert found == {g: "test" if d < 0.2 else "val" if d < 0.4 else "train" for g, d in draws.items()}


def test_a_given_split_is_honoured_and_unknown_values_are_counted(tmp_path: Path) -> None:
    table = works(6, split=["train", "val", "test", "fold3", None, "train"], bookmarks=[1, 2, 3, 4, 5, 50])
    rows, counts, _ = dataset(write_catalog(str(tmp_path), table), columns=Columns(split="split"))
    assert {row["illust_id"]: row["split"] for row in rows} == {0: "train", 1: "val", 2: "test", 5: "train"}
    assert (counts.unknown_split, counts.planned) == (2, 4)
    assert counts.unknown_splits == {"(none)": 1, "fold3": 1}
    assert described_splits(counts).startswith("1 '(none)', 1 'fold3'; accepted: train, ")


def test_other_names_capitals_and_spaces_of_splits_are_understood(tmp_path: Path) -> None:
    names = [
        "Train",
        " training",
        "validation",
        "VALID",
        "dev",
        "eval ",
        "evaluation",
        "Val",
        "Testing",
        "TEST",
    ]
    rows, counts, _ = dataset(
        write_catalog(str(tmp_path), works(10, split=names)), columns=Columns(split="split")
    )
    found = {row["illust_id"]: row["split"] for row in rows}
    assert found == {i: "train" if i < 2 else "val" if i < 8 else "test" for i in range(10)}
    assert counts.unknown_split == 0


def test_only_the_first_pages_of_a_work_are_kept(tmp_path: Path) -> None:
    pages = [(1, p) for p in (5, 0, 2, 9)] + [(2, 0)]
    table = {
        "illust_id": [i for i, _ in pages],
        "page": [p for _, p in pages],
        "uri": ["a"] * 5,
        "bookmarks": [1, 1, 1, 1, 20],
    }
    place = write_catalog(str(tmp_path), table)
    rows, counts, _ = dataset(place, rule=SplitRule(val_fraction=0, test_fraction=0, max_pages=2))
    assert sorted(keys(rows)) == [(1, 0), (1, 2), (2, 0)]
    assert (counts.over_max_pages, counts.planned) == (2, 3)


ALL_TRAIN = SplitRule(val_fraction=0, test_fraction=0, max_pages=4)


def labels_of(tmp_path: Path, column: Any, head: HeadSpec = GIVEN) -> tuple[dict[int, Any], PlanCounts]:
    """Label by id of the planned rows, where the other head gives every row a label."""
    other = OrderedHead(name="other", column="other", edges=(1,), min_value=-1)
    number = len(column)
    table = {
        "illust_id": list(range(number)),
        "uri": ["a"] * number,
        "bookmarks": column,
        "other": [0, 1] * (number // 2) + [1] * (number % 2),
    }
    rows, counts, _ = dataset(write_catalog(str(tmp_path), table), (head, other), ALL_TRAIN)
    return {row["illust_id"]: row[f"{head.name}_label"] for row in rows}, counts


def test_labels_that_are_no_labels_are_dropped_and_counted_by_reason_and_the_rows_stay(
    tmp_path: Path,
) -> None:
    nan, inf = float("nan"), float("inf")
    labels, counts = labels_of(tmp_path, [5.0, -1.0, nan, inf, -inf, None, 50.0])
    assert labels == {0: 5.0, 1: None, 2: None, 3: None, 4: None, 5: None, 6: 50.0}
    assert counts.dropped_labels == {"bookmark": {"below_min_value": 1, "not_finite": 3}, "other": {}}
    assert counts.unlabelled == 0


def test_text_labels_are_read_as_numbers_and_the_rest_is_counted(tmp_path: Path) -> None:
    labels, counts = labels_of(tmp_path, ["5", "20.5", "many", "", None, "nan", "-3"])
    assert labels == {0: 5.0, 1: 20.5, 2: None, 3: None, 4: None, 5: None, 6: None}
    assert counts.dropped_labels["bookmark"] == {"not_a_number": 2, "not_finite": 1, "below_min_value": 1}
    assert counts.dropped_examples["bookmark"] == {
        "not_a_number": ["", "many"],
        "not_finite": ["nan"],
        "below_min_value": ["-3"],
    }


def test_dropped_labels_are_described_with_the_most_frequent_ones_and_what_is_expected(
    tmp_path: Path,
) -> None:
    _, counts = labels_of(tmp_path / "a", ["5", "1,234", "1,234", "2,000", "50"])
    (line,) = described_labels([GIVEN], counts)
    assert line.startswith(
        "head bookmark: 3 labels of column bookmarks dropped as not_a_number, such as '1,234', '2,000': "
    )
    assert "separators of thousands" in line


def test_words_as_classes_are_shown_and_the_classes_are_named(tmp_path: Path) -> None:
    head = OrderedHead(name="rating", column="bookmarks", kind="levels", size=4)
    place = write_catalog(str(tmp_path), works(6, bookmarks=["safe", "explicit"] * 3))
    with pytest.raises(DataError, match="6 labels .*'explicit', 'safe': classes must be 0 to 3"):
        dataset(place, (head,))


def test_labels_beyond_int32_and_beyond_float_precision_stay_exact(tmp_path: Path) -> None:
    values = [2**31, 2**53 + 1, 2**62 + 1, 2**63 - 1, 0]
    labels, counts = labels_of(tmp_path, values)
    assert [labels[i] for i in range(5)] == values
    assert counts.dropped_labels["bookmark"] == {}


def test_learnt_edges_beyond_float_precision_are_exact(tmp_path: Path) -> None:
    values = [2**53 + i for i in range(8)]
    table = works(8, bookmarks=values)
    _, _, (head,) = dataset(write_catalog(str(tmp_path), table), (LEARNT,), ALL_TRAIN)
    assert head.edges == (2**53 + 2, 2**53 + 4, 2**53 + 6)
    assert head.counts == (2, 2, 2, 2)


def test_negative_labels_are_kept_where_min_value_allows_them(tmp_path: Path) -> None:
    head = OrderedHead(name="bookmark", column="bookmarks", edges=(-0.5, 0.5), min_value=float("-inf"))
    labels, counts = labels_of(tmp_path, [-1e300, -1.0, 0.0, float("-inf"), float("nan"), 9.0], head)
    assert labels == {0: -1e300, 1: -1.0, 2: 0.0, 3: None, 4: None, 5: 9.0}
    assert counts.dropped_labels["bookmark"] == {"not_finite": 2}


def test_a_class_that_does_not_exist_is_dropped_and_counted(tmp_path: Path) -> None:
    head = OrderedHead(name="bookmark", column="bookmarks", kind="levels", size=3)
    labels, counts = labels_of(tmp_path, [0.0, 1.0, 2.0, 3.0, 1.5, -1.0], head)
    assert labels == {0: 0.0, 1: 1.0, 2: 2.0, 3: None, 4: None, 5: None}
    assert counts.dropped_labels["bookmark"] == {"no_such_class": 2, "below_min_value": 1}


def test_true_and_false_are_labels_0_and_1(tmp_path: Path) -> None:
    head = OrderedHead(name="bookmark", column="bookmarks", kind="levels", size=2)
    assert labels_of(tmp_path, [True, False, None], head)[0] == {0: 1, 1: 0, 2: None}


def test_rows_without_any_label_are_left_out_and_counted(tmp_path: Path) -> None:
    rows, counts, _ = dataset(
        write_catalog(str(tmp_path), works(4, bookmarks=[1, None, 50, -4])), rule=ALL_TRAIN
    )
    assert sorted(row["illust_id"] for row in rows) == [0, 2]
    assert (counts.unlabelled, counts.planned) == (2, 2)


def fitted_with(tmp_path: Path, name: str, labels: Mapping[str, list[int]]) -> HeadSpec:
    split = [s for s, values in labels.items() for _ in values]
    values = [v for vs in labels.values() for v in vs]
    place = write_catalog(str(tmp_path / name), works(len(values), bookmarks=values, split=split))
    return dataset(place, (LEARNT,), columns=Columns(split="split"))[2][0]


def test_edges_counts_and_typical_values_come_from_the_train_split_alone(tmp_path: Path) -> None:
    train = list(range(0, 400, 4))
    first = fitted_with(tmp_path, "a", {"train": train, "val": [0] * 50, "test": [10**9] * 50})
    second = fitted_with(tmp_path, "b", {"train": train, "val": [10**12] * 70, "test": [3]})
    assert first == second
    assert first.edges == (100, 200, 300)
    assert first.counts == (25, 25, 25, 25)
    assert first.typical == (48.0, 148.0, 248.0, 348.0)
    assert tuple(bins.count_bins([(np.array(train), np.ones(100, np.int64))], first.edges)) == first.counts


def test_given_edges_are_kept_and_an_empty_bin_has_a_typical_value(tmp_path: Path) -> None:
    _, _, (head,) = dataset(write_catalog(str(tmp_path), works(3, bookmarks=[1, 2, 50])), rule=ALL_TRAIN)
    assert (head.edges, head.counts, head.typical) == ((10, 30), (2, 0, 1), (1.0, 20.0, 50.0))


def test_a_head_with_one_value_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    place, out = (
        write_catalog(str(tmp_path / "c"), works(20, bookmarks=[7] * 20)),
        Folder(str(tmp_path / "out")),
    )
    with pytest.raises(DataError, match="'bookmark'.*two distinct values"):
        plan_dataset(Catalogs.of(open_catalog(place, Columns(), [LEARNT])), [LEARNT], ALL_TRAIN, out, "plan")
    assert out.entries() == []


def test_a_head_without_a_label_in_the_train_split_is_refused_by_name(tmp_path: Path) -> None:
    place = write_catalog(
        str(tmp_path),
        works(4, bookmarks=[1, 2, None, None], split=["val", "val", "train", "train"], sanity=[1, 2, 3, 4]),
    )
    other = OrderedHead(name="sanity", column="sanity", edges=(2,))
    with pytest.raises(DataError, match="'bookmark'.*'bookmarks'"):
        dataset(place, (GIVEN, other), columns=Columns(split="split"))


def test_a_catalog_that_leaves_nothing_to_train_on_says_why(tmp_path: Path) -> None:
    place = write_catalog(str(tmp_path), works(4, bookmarks=[None] * 3 + [-1]))
    with pytest.raises(
        DataError,
        match="of its 4 rows, 4 without a label are left out; head bookmark: 1 labels .*'-1'.*min_value",
    ):
        dataset(place)


def test_two_heads_may_share_a_column(tmp_path: Path) -> None:
    other = OrderedHead(name="popular", column="bookmarks", edges=(30,))
    rows, _, fitted = dataset(write_catalog(str(tmp_path), works(40)), (GIVEN, other), ALL_TRAIN)
    assert all(row["bookmark_label"] == row["popular_label"] == row["illust_id"] for row in rows)
    assert [head.counts for head in fitted] == [(10, 20, 10), (30, 10)]


def test_rows_that_tie_in_update_fingerprint_and_uri_do_not_take_turns(tmp_path: Path) -> None:
    number = 400
    ids, labels = [i // 4 for i in range(number)], [i % 4 for i in range(number)]
    place = write_catalog(
        str(tmp_path / "a"), {"illust_id": ids, "uri": ["same.png"] * number, "bookmarks": labels}
    )
    rows, _, _ = dataset(
        place, rule=ALL_TRAIN, heads=(GIVEN, OrderedHead(name="other", column="bookmarks", edges=(1, 2)))
    )
    assert {row["bookmark_label"] for row in rows} == {3}
    images = write_catalog(str(tmp_path / "b"), {"illust_id": ids, "image": [b"the same"] * number})
    assert {row["row"] % 4 for row in scoring(images)[0]} == {3}


class Weighing(Folder):
    """A folder that weighs the temporary files whenever something is published."""

    most_bytes = 0

    def publish(self, path: str, data: bytes, *, replace: bool = False) -> int:
        files = [file for file in Path(tempfile.gettempdir()).rglob("*") if file.is_file()]
        self.most_bytes = max(self.most_bytes, sum(file.stat().st_size for file in files))
        return super().publish(path, data, replace=replace)


def test_a_first_night_holds_the_catalog_once_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    number = 250_000
    texts = [
        np.random.default_rng(seed).bytes(20 * number).hex() for seed in (0, 1)
    ]  # does not compress, but for hexadecimal
    uris, etags = ([text[i * 40 : i * 40 + 40] for i in range(number)] for text in texts)
    place = write_catalog(
        str(tmp_path / "catalog"), {"illust_id": list(range(number)), "uri": uris, "etag": etags}
    )
    folder = Weighing(str(tmp_path / "out"))
    assert first_night(place, folder).counts.planned == number
    assert 20 * number < folder.most_bytes < 70 * number  # with one more copy of all rows, 96


def test_rows_are_estimated_from_one_footer_and_all_sizes(tmp_path: Path) -> None:
    for part, number in enumerate((20_000, 3_000, 9_000)):
        table = works(number, uri=[hashlib.md5(f"{part}/{i}".encode()).hexdigest() for i in range(number)])
        pq.write_table(pa.table(table), tmp_path / f"{part}.parquet")
    assert 30_000 < estimated_rows(open_catalog(str(tmp_path), Columns())) < 34_000


ON_SMALL_DISK = """
import sys
from pix2score.errors import ConfigError
from pix2score.storage.folder import Folder
from tests.nightly.test_plan import first_night
try:
    first_night(sys.argv[1], Folder(sys.argv[2]))
except ConfigError as exc:
    print(exc)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_catalog_too_large_for_the_temporary_disk_is_refused_before_it_is_read(tmp_path: Path) -> None:
    place = write_catalog(str(tmp_path / "catalog"), works(40_000))
    small, out = tmp_path / "small", tmp_path / "out"
    small.mkdir()
    script = 'mount -t tmpfs -o size=4m none "$1" || exit 77; TMPDIR=$1 exec "$2" -c "$3" "$4" "$5"'
    command = [
        "unshare",
        "-m",
        "sh",
        "-c",
        script,
        "sh",
        str(small),
        sys.executable,
        ON_SMALL_DISK,
        place,
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no mounting here")
    assert done.stdout.startswith(
        "planning about 40000 catalog rows needs about 13.4 MiB of temporary disk: 4.0 MiB are free in"
    ), done
    assert str(small) in done.stdout and "TMPDIR" in done.stdout and done.stdout.count("\n") == 1
    assert not out.exists()


MEASURE = """
import resource, sys
from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.storage.folder import Folder
from tests.nightly.test_plan import first_night
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
counts = first_night(sys.argv[1], Folder(sys.argv[2])).counts
assert counts.planned == 1_000_000, counts
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.endurance
def test_planning_a_million_rows_takes_bounded_memory(tmp_path: Path) -> None:
    number = 1_000_000
    ids = pa.array(np.random.default_rng(0).permutation(number))
    uri = pa.compute.binary_join_element_wise("images/some/folder/", ids.cast(pa.string()), ".png", "")
    place = write_catalog(str(tmp_path / "catalog"), {"illust_id": ids, "uri": uri, "etag": uri})
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, place, str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    assert int(done.stdout) < 1.5 * 2**20, "kB"


def test_a_page_beyond_int32_is_the_users_mistake(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"illust_id": [1], "page": [2**40], "uri": ["a.png"]}), tmp_path / "catalog.parquet"
    )
    with pytest.raises(DataError, match="page is not a 32-bit number"):
        first_night(str(tmp_path), Folder(str(tmp_path / "out")))


def test_text_that_is_not_utf8_is_one_line_for_the_user(tmp_path: Path) -> None:
    latin = pa.StringArray.from_buffers(
        1, pa.py_buffer(np.array([0, 3], np.int32)), pa.py_buffer(b"\xe9\xe8a")
    )
    pq.write_table(pa.table({"illust_id": [1], "uri": latin}), tmp_path / "catalog.parquet")
    with pytest.raises(DataError):
        first_night(str(tmp_path), Folder(str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "kind", [pa.float16(), pa.decimal128(10, 2), pa.decimal256(40, 2), pa.bool_(), pa.uint8()]
)
def test_labels_of_any_number_type_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    labels = (
        pa.array([0, 1, 1, 0], pa.int64()).cast(pa.float32()).cast(kind)
        if kind != pa.bool_()
        else pa.array([False, True, True, False])
    )
    pq.write_table(
        pa.table({"illust_id": [1, 2, 3, 4], "uri": ["a"] * 4, "liked": labels, "split": ["train"] * 4}),
        tmp_path / "c.parquet",
    )
    head = OrderedHead(name="liked", column="liked", kind="levels", size=2)
    catalog = open_catalog(str(tmp_path), Columns(split="split"), [head])
    rule = SplitRule(val_fraction=0.1, test_fraction=0.1, max_pages=4)
    _, counts, (fitted,) = plan_dataset(
        Catalogs.of(catalog), [head], rule, Folder(str(tmp_path / "out")), "plan"
    )
    assert (counts.planned, fitted.counts) == (4, (2, 2))


# A value is a value, whatever type its writer chose.

VALUES = {
    "7": [
        pa.array([7]),
        pa.array([7], pa.uint8()),
        pa.array([7.0]),
        pa.array([7.0], pa.float16()),
        pa.array([decimal.Decimal("7.00")], pa.decimal128(20, 2)),
        pa.array([decimal.Decimal(7)], pa.decimal256(50, 4)),
        pa.array(["7"]),
        pa.array([b"7"]),
        pa.array([7.0]).dictionary_encode(),
    ],
    "1700000000000000001": [pa.array([1700000000000000001]), pa.array([1700000000000000001], pa.uint64())],
    "0.5": [
        pa.array([0.5]),
        pa.array([0.5], pa.float32()),
        pa.array([decimal.Decimal("0.50")]),
        pa.array(["0.5"]),
    ],
    "0": [
        pa.array([0]),
        pa.array([-0.0]),
        pa.array([decimal.Decimal("0.00")]),
        pa.array([decimal.Decimal(0)], pa.decimal256(50, 4)),
    ],
    "1.10": [pa.array(["1.10"]), pa.array([b"1.10"], pa.binary(4)), pa.array(["1.10"], pa.large_string())],
    "2026-01-02 03:04:05.5": [
        pa.array([datetime(2026, 1, 2, 3, 4, 5, 500_000)], pa.timestamp("ms")),
        pa.array([datetime(2026, 1, 2, 3, 4, 5, 500_000)], pa.timestamp("us")),
        pa.array([datetime(2026, 1, 2, 3, 4, 5, 500_000)], pa.timestamp("ns")),
        pa.array([datetime(2026, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC)], pa.timestamp("us", tz="UTC")),
        pa.array([datetime(2026, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC)], pa.timestamp("us", tz="Asia/Tokyo")),
    ],
    "2026-01-02 00:00:00": [
        pa.array([date(2026, 1, 2)]),
        pa.array([date(2026, 1, 2)], pa.date64()),
        pa.array([datetime(2026, 1, 2)], pa.timestamp("ns")),
    ],
    "ff00": [pa.array([b"\xff\x00"]), pa.array([b"\xff\x00"], pa.binary(2)), pa.array(["ff00"])],
    "true": [pa.array([True]), pa.array(["true"])],
}


@pytest.mark.parametrize(
    ("text", "column"), [(text, column) for text, columns in VALUES.items() for column in columns]
)
def test_group_and_fingerprint_are_the_same_for_every_type_of_the_same_value(
    tmp_path: Path, text: str, column: pa.Array
) -> None:
    place = write_catalog(
        str(tmp_path), {"illust_id": [1], "uri": ["a"], "artist_id": column, "etag": column}
    )
    ((row,), _) = scoring(place)
    assert (row["group"], row["fingerprint"]) == (text, f"etag:{text}")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([float("nan")]),
        pa.array([None], pa.float64()),
        pa.nulls(1),
        pa.array([None], pa.timestamp("ns")),
    ],
)
def test_no_number_is_no_group_and_no_fingerprint(tmp_path: Path, column: pa.Array) -> None:
    place = write_catalog(
        str(tmp_path), {"illust_id": [1], "uri": ["a"], "artist_id": column, "etag": column}
    )
    ((row,), _) = scoring(place)
    assert (row["group"], row["fingerprint"]) == ("1", "uri:a")


def test_a_missing_artist_moves_nobody_else(tmp_path: Path) -> None:
    artists = [i // 10 for i in range(300)]
    whole, _, _ = dataset(write_catalog(str(tmp_path / "a"), works(300, artist_id=artists)))
    late = [*map(float, artists[:-1]), None]
    part, _, _ = dataset(
        write_catalog(str(tmp_path / "b"), works(300, artist_id=pa.array(late, pa.float64())))
    )
    before = {row["illust_id"]: row["split"] for row in whole}
    assert {row["illust_id"] for row in part if row["split"] != before[row["illust_id"]]} <= {299}


def test_partitions_of_one_artist_each_stand_in_one_split(tmp_path: Path) -> None:
    for artist in range(20):
        ids = list(range(artist * 4, artist * 4 + 4))
        write_catalog(
            str(tmp_path),
            {"illust_id": ids, "uri": ["a"] * 4, "bookmarks": ids},
            f"artist_id={artist}/p.parquet",
        )
    rows, _, _ = dataset(str(tmp_path))
    assert {row["illust_id"]: row["group"] for row in rows} == {i: str(i // 4) for i in range(80)}
    assert all(len(splits) == 1 for splits in splits_by_group(rows).values())


STORED = [
    # type of today's column, text of an earlier version, text of today
    (pa.array([7]), "7.0", "7"),
    (pa.array([7.0]), "7.0", "7"),
    (pa.array([7.0]), "-0.0", "0"),
    (pa.array([7.0]), "1e+20", "100000000000000000000"),
    (pa.array([7.0]), "0.5", "0.5"),
    (pa.array([7.5]), "100", "100"),
    (pa.array([decimal.Decimal("7.00")]), "7.00", "7"),
    (pa.array([decimal.Decimal("7.00")]), "7.10", "7.1"),
    (pa.array([decimal.Decimal("0.50")]), "-.50", "-0.5"),
    (pa.array([decimal.Decimal("0.50")]), ".00", "0"),
    (pa.array([datetime(2026, 1, 1)]), "2026-01-01 00:00:00+00", "2026-01-01 00:00:00"),
    (pa.array([datetime(2026, 1, 1)]), "2026-01-01", "2026-01-01 00:00:00"),
    (pa.array([date(2026, 1, 1)]), "2026-01-01", "2026-01-01 00:00:00"),
    (pa.array([datetime(2026, 1, 1)]), "2026-01-01 00:00:00.5", "2026-01-01 00:00:00.5"),
    (pa.array(["1.10"]), "1.10", "1.10"),
    (pa.array(["1.10"]), "2026-01-01", "2026-01-01"),
    (pa.array([b"a"]), r"a\xFF\x00", "61ff00"),
    (pa.array([b"a"]), r"\xE3\x81\x82", "\u3042"),
    (pa.array([b"a"]), "\u3042", "\u3042"),
    (pa.array([True]), "true", "true"),
]


@pytest.mark.parametrize(("column", "stored", "today"), STORED)
def test_fingerprints_of_earlier_versions_are_understood(
    tmp_path: Path, column: pa.Array, stored: str, today: str
) -> None:
    catalog = open_catalog(
        write_catalog(str(tmp_path), {"illust_id": [1], "uri": ["a"], "etag": column}), Columns()
    )
    sql = stored_fingerprint_sql(catalog, "f")
    with engine() as connection:
        for text, expected in (
            (f"etag:{stored}", f"etag:{today}"),
            (f"etag:{today}", f"etag:{today}"),
            ("uri:7.0", "uri:7.0"),
        ):
            assert connection.execute(f"SELECT {sql} FROM (SELECT ? AS f)", [text]).fetchone() == (expected,)
        assert connection.execute(f"SELECT {sql} FROM (SELECT NULL::VARCHAR AS f)").fetchone() == (None,)


# The newest row of a key.


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (float("nan"), -5.0),
        (9.0, 10.0),
        ("9", "10"),
        ("2026-11-9", "2026-11-20"),
        ("2026-11-20T23:00:00+09:00", "2026-11-20T15:00:00Z"),
        ("1700000000000000001", "1700000000000000002"),
        (date(2026, 1, 1), date(2026, 1, 2)),
        (datetime(1, 1, 1), datetime(9999, 12, 31)),
        ("alpha", "beta"),
        (None, 0),
    ],
)
def test_the_newest_row_wins_by_the_value_of_updated_at(tmp_path: Path, older: Any, newer: Any) -> None:
    table = {"illust_id": [1, 1, 2, 2], "uri": ["old", "new", "new", "old"], "etag": ["z", "a", "a", "z"]}
    kind = pa.timestamp("us") if isinstance(older, datetime) else None
    column = pa.array([older, newer, newer, older], kind)
    rows, _ = scoring(write_catalog(str(tmp_path), {**table, "updated_at": column}))
    assert [row["uri"] for row in rows] == ["new", "new"]


def test_the_newest_row_may_stand_in_a_file_of_another_type(tmp_path: Path) -> None:
    for number, (day, uri) in enumerate(
        [(datetime(2026, 11, 9), "old"), ("2026-11-20", "new"), (date(2026, 11, 19), "old")]
    ):
        write_catalog(
            str(tmp_path), {"illust_id": [1], "uri": [uri], "updated_at": [day]}, f"{number}.parquet"
        )
    assert [row["uri"] for row in scoring(str(tmp_path))[0]] == ["new"]


def test_the_day_of_a_partition_decides_which_row_is_newest(tmp_path: Path) -> None:
    for day, uri, etag in (("2026-11-20", "old", "z"), ("2026-11-21", "new", "a")):
        write_catalog(
            str(tmp_path), {"illust_id": [1], "uri": [uri], "etag": [etag]}, f"updated_at={day}/p.parquet"
        )
    assert [row["uri"] for row in scoring(str(tmp_path))[0]] == ["new"]


@pytest.mark.parametrize(
    "pages",
    [
        ["0", "2"],
        ["p0", "p2"],
        [0.0, 2.0],
        [None, 2.0],
        [decimal.Decimal(0), decimal.Decimal(2)],
        [" 0", "2 "],
    ],
)
def test_pages_are_read_by_their_values(tmp_path: Path, pages: list[Any]) -> None:
    rows, _ = scoring(write_catalog(str(tmp_path), {"illust_id": [1, 1], "uri": ["a", "b"], "page": pages}))
    assert sorted(row["page"] for row in rows) == [0, 2]


@pytest.mark.parametrize("pages", [["p0", "cover"], [0.0, 1.5]])
def test_a_page_that_is_no_whole_number_is_named(tmp_path: Path, pages: list[Any]) -> None:
    place = write_catalog(str(tmp_path), {"illust_id": [1, 1], "uri": ["a", "b"], "page": pages})
    with pytest.raises(DataError, match=r'page "(cover|1\.5)", expected 0, 1, 2 or p0, p1, p2'):
        scoring(place, Columns(page="page"))
