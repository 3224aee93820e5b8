"""Heads: what a spec may say, that a refusal names the thing, and that a spec survives JSON."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2score.errors import ConfigError
from pix2score.heads.kinds import head_from_dict
from pix2score.heads.ordered import OrderedHead
from pix2score.heads.presets import preset
from pix2score.heads.spec import MISSING

BOOKMARK_EDGES = (10, 30, 50, 70, 100, 130, 170, 220, 300, 400, 550, 800, 1300, 2700)
VIEW_EDGES = (500, 700, 1000, 1500, 2000, 2500, 3000, 4000, 5000, 6500, 8500, 12000, 19000, 35000)


def test_the_pixiv_preset_has_the_published_edges() -> None:
    bookmark, view, sanity = preset("pixiv")
    assert (bookmark.name, bookmark.column, bookmark.kind, bookmark.edges) == (
        "bookmark",
        "bookmarks",
        "bins",
        BOOKMARK_EDGES,
    )
    assert (view.name, view.column, view.kind, view.edges) == ("view", "views", "bins", VIEW_EDGES)
    assert (sanity.name, sanity.column, sanity.kind, sanity.edges) == (
        "sanity",
        "sanity",
        "levels",
        (2, 4, 6, 7),
    )
    assert [head.num_bins for head in preset("pixiv")] == [15, 15, 5]


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'pixel'.*pixiv"):
        preset("pixel")


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"name": "Bookmark", "size": 5}, "'Bookmark'"),
        ({"name": "a" * 41, "size": 5}, "head name"),
        ({"name": 'x"; DROP', "size": 5}, "head name"),
        ({"name": "h\n", "size": 5}, "head name"),
        ({"name": "h"}, "'h'.*size.*edges"),
        ({"name": "h", "size": 1}, "'h': 1 bins"),
        ({"name": "h", "size": 0}, "'h': 0 bins"),
        ({"name": "h", "size": -3}, "'h': -3 bins"),
        ({"name": "h", "size": 1001}, "'h': 1001 bins"),
        ({"name": "h", "size": 5, "kind": "bin"}, "kind 'bin'.*bins"),
        ({"name": "h", "size": 5, "loss": "mse"}, "loss 'mse'"),
        ({"name": "h", "size": 5, "weight": -1.0}, "weight -1.0"),
        ({"name": "h", "size": 5, "weight": float("nan")}, "weight nan"),
        ({"name": "h", "size": 5, "min_value": float("nan")}, "min_value nan"),
        ({"name": "h", "size": 5, "min_value": float("inf")}, "min_value inf"),
        ({"name": "h", "edges": ()}, "edges"),
        ({"name": "h", "edges": (3, 3)}, "edges.*strictly increasing"),
        ({"name": "h", "edges": (3, 2)}, "edges.*strictly increasing"),
        ({"name": "h", "edges": (1, float("inf"))}, "edges.*finite"),
        ({"name": "h", "edges": (0, 5)}, "edge 0.*min_value"),
        ({"name": "h", "edges": (1, 5), "size": 4}, "size 4 contradicts 2 edges"),
    ],
)
def test_a_bad_spec_is_refused_by_name(spec: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        OrderedHead(column="c", **spec)


@pytest.mark.parametrize(
    ("plain", "named"),
    [
        ({"name": "h", "column": "c", "sise": 5}, "sise.*size"),
        ({"name": "h", "size": 5}, "column"),
        ({"column": "c", "size": 5}, "name"),
        ({"name": "h", "column": "c", "size": "many"}, "size"),
        ({"name": "h", "column": "c", "size": 5.5}, "size"),
        ({"name": 5, "column": "c", "size": 5}, "name"),
        ({"name": "h", "column": ["c"], "size": 5}, "column"),
        ({"name": "h", "column": "c", "edges": ["a", "b"]}, "edges"),
        ({"name": "h", "column": "c", "edges": 5}, "edges"),
        ({"name": "h", "column": "c", "size": 5, "min_value": "low"}, "min_value"),
        ({"name": "h", "column": "c", "size": 5, "weight": "1"}, "weight"),
    ],
)
def test_a_bad_table_of_a_config_file_is_refused_by_the_key(plain: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        head_from_dict(plain)


@given(
    edges=st.lists(st.integers(1, 2**60), min_size=1, max_size=15, unique=True).map(sorted),
    weight=st.floats(0, 100),
    min_value=st.sampled_from([0.0, -5.5, float("-inf")]),
)
def test_a_head_survives_json(edges: list[int], weight: float, min_value: float) -> None:
    head = OrderedHead(name="h_1", column="c", edges=tuple(edges), weight=weight, min_value=min_value)
    fitted = head.fitted(edges=edges, counts=[3] * (len(edges) + 1), typical=[0.5] * (len(edges) + 1))
    for spec in (head, fitted):
        text = json.dumps(spec.to_dict(), allow_nan=False)
        assert head_from_dict(json.loads(text)) == spec


def test_a_head_yet_to_be_learnt_survives_json() -> None:
    head = OrderedHead(name="h", column="c", size=15)
    assert head.needs_learning
    assert head_from_dict(json.loads(json.dumps(head.to_dict()))) == head


def test_learning_may_leave_fewer_bins_than_asked() -> None:
    fitted = OrderedHead(name="h", column="c", size=15).fitted(
        edges=[1, 5], counts=[1, 1, 1], typical=[0, 1, 5]
    )
    assert (fitted.num_bins, fitted.size, fitted.edges, fitted.needs_learning) == (3, 3, (1, 5), False)


def test_encode_masks_what_is_missing() -> None:
    head = OrderedHead(name="h", column="c", edges=(10, 30))
    encoded = head.encode(pa.array([0, 10, None, 30, None]))
    assert encoded.type == pa.int16()
    assert encoded.to_pylist() == [0, 1, MISSING, 2, MISSING]


def test_levels_without_edges_are_the_classes_themselves() -> None:
    head = OrderedHead(name="h", column="c", kind="levels", size=4)
    assert (head.are_classes, head.needs_learning, head.max_value) == (True, False, 3)
    assert head.encode(pa.array(range(4))).to_pylist() == [0, 1, 2, 3]
    assert head.legend() == {"0": "0", "1": "1", "2": "2", "3": "3"}


def test_levels_with_edges_are_cut_like_bins() -> None:
    sanity = preset("pixiv")[2]
    assert sanity.encode(pa.array([0, 2, 4, 6, 7])).to_pylist() == [0, 1, 2, 3, 4]
    assert not sanity.are_classes


def test_classes_have_no_min_value() -> None:
    with pytest.raises(ConfigError, match="classes from 0"):
        OrderedHead(name="level", column="level", kind="levels", size=5, min_value=-3)


def test_an_edge_beyond_every_float_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be finite"):
        head_from_dict({"name": "a", "column": "a", "edges": [1, 10**400]})


def test_before_learning_every_bin_is_as_likely_and_stands_for_its_number() -> None:
    head = OrderedHead(name="h", column="c", edges=(10, 30))
    assert (head.train_counts, head.typical_values) == ((1, 1, 1), (0, 1, 2))
    fitted = head.fitted(edges=[10, 30], counts=[6, 3, 1], typical=[4, 12, 50])
    assert (fitted.train_counts, fitted.typical_values) == ((6, 3, 1), (4, 12, 50))
    assert fitted.ranks.tolist() == pytest.approx([0.3, 0.75, 0.95])
