"""Tables for a terminal: columns stand below each other, whatever is in them."""

from __future__ import annotations

from pix2score.cli.tables import aligned


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    rows = [
        ["head", "images", "main"],
        ["bookmark", "7", "rho 0.512"],
        ["a head with a long name", "1234567", "-"],
    ]
    assert aligned(rows).splitlines() == [
        "head                      images       main",
        "bookmark                       7  rho 0.512",
        "a head with a long name  1234567          -",
    ]


def test_a_row_may_end_early_and_no_line_ends_in_spaces() -> None:
    assert aligned([["a", "bb", "c"], ["aaa"], ["", "b"]]) == "a    bb  c\naaa\n      b"


def test_nothing_is_an_empty_text() -> None:
    assert aligned([]) == ""
