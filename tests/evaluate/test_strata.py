"""Rows of a split are told apart by a column of the catalog, or of the shards."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pix2score.dataset.card import PreparedDataset
from pix2score.errors import ConfigError, DataError
from pix2score.evaluate.strata import Strata, check_columns, strata_of
from pix2score.heads.compared import FIRST_PAGE
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from tests.support.builders import Key, write_catalog

NUM = 120


def dataset_of(place: Path, keys: Sequence[Key], **columns: Any) -> PreparedDataset:
    """A test split of these keys, made from the catalog beside it."""
    folder, shards = Folder(str(place / "dataset")), []
    for i, start in enumerate(range(0, len(keys), 50)):
        some = keys[start : start + 50]
        table = pa.table(
            {
                "illust_id": pa.array([key[0] for key in some]),
                "page": pa.array([key[1] for key in some], pa.int32()),
                **{name: values[start : start + 50] for name, values in columns.items()},
            }
        )
        path = f"split=test/part-{i}.parquet"
        folder.publish(path, parquet_bytes(table))
        shards.append({"path": path, "rows": len(some), "split": "test"})
    card = {
        "catalog": {"uri": str(place / "catalog")},
        "config": {"columns": {"id": "illust_id"}},
        "shards": shards,
    }
    return PreparedDataset(folder, (), card, "d")


def split_of(place: Path, columns: dict[str, Any], keys: Sequence[Key] | None = None) -> PreparedDataset:
    ids = list(range(NUM))
    catalog = {"illust_id": ids, "uri": [f"{i}.png" for i in ids], **columns}
    write_catalog(str(place / "catalog"), pa.table(catalog))
    return dataset_of(place, keys or [(i, 0) for i in ids])


def strata(dataset: PreparedDataset, *columns: str) -> list[Strata]:
    return strata_of(dataset, "test", columns, check_columns(dataset, columns))


def named(found: Strata, keys: Sequence[Key]) -> list[str]:
    """The name of each key's part."""
    rows = pa.table(
        {
            "illust_id": pa.array([key[0] for key in keys]),
            "page": pa.array([key[1] for key in keys], pa.int32()),
        }
    )
    return [found.parts.names[i] for i in found.of(rows)]


def test_every_row_has_the_value_that_the_catalog_has(tmp_path: Path) -> None:
    values = {
        "model": [("sd", "mj", None, "o'hara")[i % 4] for i in range(NUM)],
        "is_ad": [i % 3 == 0 for i in range(NUM)],
        "year": [2019 + min(i % 7, 4) for i in range(NUM)],
    }
    by_model, by_ad, by_year = strata(split_of(tmp_path, values), "model", "is_ad", "year")
    keys: list[Key] = [(i, 0) for i in (7, 3, 118, 0, 1, 2)]
    assert named(by_model, keys) == ["o'hara", "o'hara", "(none)", "sd", "mj", "(none)"]
    assert named(by_ad, keys) == ["false", "true", "false", "true", "false", "false"]
    assert named(by_year, keys) == ["2019", "2022", "2023", "2019", "2020", "2021"]
    assert by_year.parts.names == ("2019", "2020", "2021", "2022", "2023")
    assert sum(by_model.num_rows) == NUM
    assert by_model.num_rows == [30] * 4
    assert by_model.parts.names[-1] == "(none)"


def test_the_rarest_of_many_texts_are_summed(tmp_path: Path) -> None:
    texts = [f"artist {min(i // 3, i % 30)}" for i in range(NUM)]
    (found,) = strata(split_of(tmp_path, {"artist": texts}), "artist")
    counts = {text: texts.count(text) for text in texts}
    assert len(found.parts.names) == 21
    assert found.parts.names[-1] == f"others ({len(counts) - 20} values)"
    shown = found.parts.names[:20]
    assert found.num_rows[:20] == [counts[name] for name in shown]
    assert found.num_rows[:20] == sorted(found.num_rows[:20], reverse=True)
    assert min(found.num_rows[:20]) >= max(n for text, n in counts.items() if text not in shown)
    assert sum(found.num_rows) == NUM


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.decimal128(9, 2)])
def test_a_number_of_many_values_is_cut_into_quarters(tmp_path: Path, kind: pa.DataType) -> None:
    numbers = np.random.default_rng(0).permutation(NUM) * 10
    column = pa.array([None if i == 5 else int(n) for i, n in enumerate(numbers)], kind)
    (found,) = strata(split_of(tmp_path, {"width": column}), "width")
    known = np.delete(numbers, 5)
    borders = np.quantile(known, [0.25, 0.5, 0.75])
    part = np.digitize(numbers, borders)
    names = [f"{known[part[np.arange(NUM) != 5] == q].min()} to" for q in range(4)]
    keys: list[Key] = [(i, 0) for i in range(NUM)]
    for i, name in enumerate(named(found, keys)):
        assert name == "(none)" if i == 5 else name.startswith(names[part[i]]), i
    assert found.parts.note.startswith("Cut at its quartiles, ")
    assert sorted(found.num_rows) == sorted([*np.bincount(np.delete(part, 5)).tolist(), 1])


def test_tied_quarters_and_numbers_that_are_none_stay_apart(tmp_path: Path) -> None:
    numbers = [0.0] * 70 + [float(i) for i in range(49)] + [float("nan")]
    (found,) = strata(split_of(tmp_path, {"views": numbers}), "views")
    assert found.parts.names == ("0 to 18", "19 to 48", "(none)")
    assert named(found, [(119, 0)]) == ["(none)"]
    assert sum(found.num_rows) == NUM


def test_of_rows_with_one_key_the_newest_counts_and_pages_are_apart(tmp_path: Path) -> None:
    rows = {
        "illust_id": ["a", "a", "a", "b"],
        "page": [0, 0, 1, 0],
        "updated_at": [1, 2, 1, 1],
        "uri": ["1", "2", "3", "4"],
        "model": ["old", "new", "second", "other"],
    }
    write_catalog(str(tmp_path / "catalog"), pa.table(rows))
    dataset = dataset_of(tmp_path, [("a", 0), ("a", 1), ("b", 0)])
    (found,) = strata(dataset, "model")
    assert named(found, [("b", 0), ("a", 1), ("a", 0)]) == ["other", "second", "new"]


def test_a_set_of_compared_images_counts_as_its_first_images_first_page(tmp_path: Path) -> None:
    rows = {"illust_id": [7, 7, 8], "page": [1, 0, 0], "uri": ["a", "b", "c"], "model": ["xl", "sd", "mj"]}
    write_catalog(str(tmp_path / "catalog"), pa.table(rows))
    keys: list[Key] = [(7, FIRST_PAGE - 1), (8, FIRST_PAGE - 2), (7, 1)]
    (found,) = strata(dataset_of(tmp_path, keys), "model")
    assert named(found, keys) == ["sd", "mj", "xl"]


def test_rows_that_left_the_catalog_are_told_and_have_no_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = split_of(tmp_path, {"model": ["sd"] * NUM}, [(5, 0), (999, 0)])
    with caplog.at_level(logging.WARNING):
        (found,) = strata(dataset, "model")
    assert named(found, [(5, 0), (999, 0)]) == ["sd", "(none)"]
    assert "1 of 2 rows of the split are not in the catalog any more" in caplog.text
    with pytest.raises(DataError, match="none of the 1 rows"):
        strata(split_of(tmp_path / "other", {"model": ["sd"] * NUM}, [(999, 0)]), "model")


def test_sources_come_from_the_shards_that_have_them(tmp_path: Path) -> None:
    write_catalog(str(tmp_path / "catalog"), {"illust_id": [1], "uri": ["a"], "source": ["wrong"], "x": [1]})
    keys: list[Key] = [(1, 0), (2, 0), (3, 0)]
    dataset = dataset_of(tmp_path, keys, source=["scut", "emoji", "scut"])
    found = strata(dataset, "source", "x")
    assert [each.column for each in found] == ["source", "x"]
    assert named(found[0], keys) == ["scut", "emoji", "scut"]
    without = dataset_of(tmp_path / "without", keys)
    write_catalog(str(tmp_path / "without" / "catalog"), {"illust_id": [1], "uri": ["a"], "source": ["x"]})
    assert named(strata(without, "source")[0], keys) == ["x", "(none)", "(none)"]


@pytest.mark.parametrize(
    ("column", "error", "words"),
    [
        (
            "modle",
            DataError,
            r"--by model, modle: .*no column 'modle' \(did you mean model\?\); it has illust_id, uri",
        ),
        ("tags", ConfigError, "--by tags: is list.* in the catalog, expected text, yes or no, or a number"),
        ("size", ConfigError, "--by size: is struct"),
    ],
)
def test_a_column_that_cannot_be_told_apart_by_is_a_mistake(
    tmp_path: Path, column: str, error: type[Exception], words: str
) -> None:
    dataset = split_of(tmp_path, {"model": ["sd"] * NUM, "tags": [["a"]] * NUM, "size": [{"w": 1}] * NUM})
    with pytest.raises(error, match=words) as caught:
        check_columns(dataset, ["model", column])
    assert caught.value.exit_code == 2  # type: ignore[attr-defined]


def test_a_catalog_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="--by model: of the catalog that the dataset was made from: no catalog"
    ):
        check_columns(dataset_of(tmp_path, [(1, 0)]), ["model"])


def test_of_several_catalogs_only_the_source_is_known(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, [(1, 0)], source=["scut"])
    dataset.card["more_catalogs"] = [{"uri": "other"}]
    assert strata(dataset, "source")[0].parts.names == ("scut",)
    with pytest.raises(ConfigError, match="--by model: the dataset is of several catalogs; of such only"):
        check_columns(dataset, ["source", "model"])
