"""What a person reads as one word is one label, in whichever of Unicode's forms it is written, and whatever
spaces are around it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from pix2score.heads.binary import BinaryHead
from pix2score.heads.classes import ClassesHead
from pix2score.heads.spec import HeadSpec, LabelColumn
from pix2score.heads.tags import TagsHead
from tests.heads.test_tags import labels_of

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"
SPACES = [*map(chr, (9, 10, 11, 12, 13, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000, 0xFEFF))]
SPACES += map(chr, range(0x2000, 0x200B))
SPELLINGS = [COMPOSED, DECOMPOSED, f"{DECOMPOSED}\r", f"\u00a0{COMPOSED}\u3000", f"\ufeff{COMPOSED}\t"]


def cleaned(head: HeadSpec, values: Iterable[Any], kind: pa.DataType | None = None) -> list[Any]:
    kind = kind or pa.string()
    sql = head.clean_sql([LabelColumn("given", kind)])
    with duckdb.cursor() as connection:
        connection.register("rows", pa.table({"given": pa.array(values, kind)}))
        return [row[0] for row in connection.execute(f"SELECT {sql} FROM rows").fetchall()]


@pytest.mark.parametrize("positive", SPELLINGS)
def test_every_spelling_of_a_positive_text_is_yes(positive: str) -> None:
    head = BinaryHead(name="h", column="c", positive=(positive,))
    assert cleaned(head, [*SPELLINGS, "cafe", "\u3000"]) == [1, 1, 1, 1, 1, 0, None]


def test_a_class_has_one_spelling_and_a_given_one_keeps_its_own() -> None:
    head = ClassesHead(name="h", column="c")
    assert set(cleaned(head, SPELLINGS)) == {COMPOSED}
    assert set(cleaned(replace(head, names=(DECOMPOSED, "tea")), SPELLINGS)) == {DECOMPOSED}
    both = replace(head, names=(DECOMPOSED, COMPOSED))
    assert set(cleaned(both, SPELLINGS)) == {COMPOSED}


def test_a_tag_is_one_in_both_forms_and_of_a_model_as_that_spells_it(tmp_path: Path) -> None:
    head = TagsHead(name="h", column="c")
    kind = pa.list_(pa.string())
    assert cleaned(head, [[DECOMPOSED, COMPOSED, "tea"]], kind) == [[COMPOSED, "tea"]]
    learnt = replace(head, tags=(DECOMPOSED, "tea"), counts=(1, 1))
    assert cleaned(learnt, [[COMPOSED, " tea"]], kind) == [[DECOMPOSED, "tea"]]
    (tmp_path / "tags.txt").write_text(f"{DECOMPOSED}\n{COMPOSED}\ntea\n", encoding="utf-8")
    given = replace(head, vocabulary=str(tmp_path / "tags.txt"))
    assert given.fit(labels_of([[COMPOSED], ["tea"]])).names == (COMPOSED, "tea")


def test_spaces_of_any_kind_around_a_text_are_no_part_of_it() -> None:
    around = [f"{space}tea{space}" for space in SPACES]
    assert set(cleaned(BinaryHead(name="h", column="c", positive=("tea",)), around)) == {1}
    assert set(cleaned(ClassesHead(name="h", column="c"), around)) == {"tea"}
    assert cleaned(TagsHead(name="h", column="c"), [around], pa.list_(pa.string())) == [["tea"]]
    assert cleaned(ClassesHead(name="h", column="c"), SPACES) == [None] * len(SPACES)
    given = ClassesHead(name="h", column="c", names=("tea", "coffee")).given_sql(
        [LabelColumn("given", pa.string())]
    )
    with duckdb.cursor() as connection:
        connection.register("rows", pa.table({"given": SPACES}))
        assert connection.execute(f"SELECT count({given}) FROM rows").fetchall() == [(0,)]


def test_tags_stay_in_their_order_and_few_are_none() -> None:
    head, kind = TagsHead(name="h", column="c", min_tags=2), pa.list_(pa.string())
    rows = [["b", "a", "b", None, "", "c", "a"], ["x", "x"], [], None, ["y", "x"]]
    assert cleaned(head, rows, kind) == [["b", "a", "c"], None, None, None, ["y", "x"]]
