"""The chain of every kind has an example of every kind."""

from __future__ import annotations

from pix2score.heads.kinds import KINDS
from tests.support.all_kinds import EXAMPLES


def test_every_kind_has_an_example() -> None:
    assert set(EXAMPLES) == set(KINDS)
