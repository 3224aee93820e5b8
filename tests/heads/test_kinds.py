"""Kinds of heads: each is complete, what fits none is refused by name, and no stage asks for a kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import pix2score
from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.errors import ConfigError, DataError
from pix2score.heads.aims import AIMS
from pix2score.heads.kinds import KINDS, head_from_dict, kinds_for
from pix2score.heads.ordered import OrderedHead
from pix2score.metrics.kinds import NUMBERS
from pix2score.report.kinds import PAGES
from pix2score.serve.graph import ANSWERS
from pix2score.train.step.losses import LOSSES
from tests.support.builders import write_catalog

PACKAGE = Path(pix2score.__file__).parent
BY_KIND = re.compile(r"\.kind\s*(==|!=|in\b|not in\b)|(\[|get\()\w+\.kind\b")
MAY_ASK = (
    *("heads/", "metrics/kinds.py", "report/kinds.py", "serve/graph.py", "model/pooling.py"),
    "train/options.py",
)
"""The last: its flags --bins-loss and --levels-loss are one per kind."""

NEEDED = {
    "bins": {"size": 4},
    "levels": {"size": 3},
    "distribution": {"values": [1, 2, 3]},
    "preference": {"column": ""},
}
"""Kind -> the keys that its heads cannot do without."""


@pytest.mark.parametrize(("kind", "meant"), [("bin", "bins"), ("level", "levels"), ("Levels", "levels")])
def test_an_unknown_kind_is_refused_with_all_and_the_nearest(kind: str, meant: str) -> None:
    with pytest.raises(ConfigError) as caught:
        head_from_dict({"name": "likes", "column": "likes", "size": 3, "kind": kind})
    assert str(caught.value) == (
        f"head 'likes': kind '{kind}' is not known; one of {', '.join(KINDS)}; did you mean {meant}?"
    )


@pytest.mark.parametrize("kind", [["bins"], {}, 5])
def test_a_kind_that_is_no_name_is_refused(kind: Any) -> None:
    with pytest.raises(ConfigError, match="'likes': kind .* is not known"):
        head_from_dict({"name": "likes", "column": "likes", "size": 3, "kind": kind})


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_its_kind_does_not_have_is_named_with_those_it_has(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown key flavour; known for kind {kind}: .*column, .*weight"):
        head_from_dict({"name": "likes", "column": "likes", "kind": kind, "flavour": 3})


class OnlyText(OrderedHead):
    """A head whose label column must be text."""

    LABEL = "text"

    @classmethod
    def accepts(cls, column: pa.DataType) -> bool:
        return bool(pa.types.is_string(column))


def test_a_label_column_of_a_wrong_type_is_told_with_the_kinds_that_it_fits(tmp_path: Path) -> None:
    place = write_catalog(str(tmp_path), {"illust_id": [1], "uri": ["a.png"], "likes": [5]})
    with pytest.raises(DataError) as caught:
        open_catalog(place, Columns(), [OnlyText(name="fame", column="likes", size=3)])
    fitting = kinds_for(pa.int64())
    assert {"bins", "levels"} <= set(fitting)
    assert str(caught.value).endswith(
        f"column likes is int64, expected text for head 'fame' of kind bins; kind {' or '.join(fitting)} "
        "would fit"
    )


def loss_names(kind: str) -> set[str]:
    """What the losses that a kind lets one ask for are called in the table of losses."""
    plain = {"name": "h", "column": "c", "kind": kind, **NEEDED.get(kind, {})}
    return {head_from_dict({**plain, "loss": loss}).loss_name for loss in ("auto", *KINDS[kind].LOSSES)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_losses_numbers_pages_and_a_graph(kind: str) -> None:
    assert loss_names(kind) <= LOSSES.keys()
    assert all(kind in table for table in (NUMBERS, PAGES, ANSWERS, AIMS))


def test_every_loss_is_of_some_kind() -> None:
    assert LOSSES.keys() == {loss for kind in KINDS for loss in loss_names(kind)}


def test_no_stage_asks_a_head_for_its_kind() -> None:
    asked = {
        name
        for path in PACKAGE.rglob("*.py")
        if not (name := path.relative_to(PACKAGE).as_posix()).startswith(MAY_ASK)
        and BY_KIND.search(path.read_text())
    }
    assert asked == set()
