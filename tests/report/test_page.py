"""A page's parts are short and fit for a phone; missing packages are named."""

from __future__ import annotations

import re

import pytest

from pix2score.errors import ConfigError
from pix2score.heads.ordered import OrderedHead
from pix2score.report import page as page_module
from pix2score.report.charts import bars, confusion
from pix2score.report.page import check_packages, number


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "NEEDED", ("vl_convert", "no_such_package"))
    with pytest.raises(ConfigError, match=r"needs no_such_package.*pip install 'pix2score\[report\]'"):
        check_packages()


def test_large_bounds_are_short() -> None:
    head = OrderedHead(name="views", column="views", edges=(500, 1500, 36_940_052, 108_562_000))
    assert head.histogram_labels() == ["0-500", "500-1500", "1500-36.9M", "36.9M-109M", "109M-∞"]
    close = OrderedHead(
        name="uses", column="uses", edges=(9999, 390_000, 1_084_000, 9_480_000, 1_200_000_000)
    )
    assert close.histogram_labels() == [
        "0-9999",
        "9999-390k",
        "390k-1.08M",
        "1.08M-9.48M",
        "9.48M-1.2G",
        "1.2G-∞",
    ]
    level = OrderedHead(name="level", column="l", kind="levels", size=3)
    assert level.histogram_labels() == ["0", "1", "2"]


def test_large_numbers_are_short() -> None:
    assert [number(v) for v in (None, 0.25, -3.0, 84_458_813.859)] == ["-", "0.250", "-3.000", "84.5M"]


def labels_hidden(number: int) -> int:
    labels = [f"{k}00k-{k + 1}00k" for k in range(number)]
    drawn = bars(labels, {"model": [1 / number] * number})
    assert all(drawn.count(f">{label}<") == 1 for label in labels)
    return len(re.findall(r'<text[^>]* opacity="0"', drawn))


def test_every_bin_of_fifteen_has_its_label_and_of_very_many_some() -> None:
    assert labels_hidden(15) == 0
    assert labels_hidden(100) > 50
    labels = [f"{k}00k-{k + 1}00k" for k in range(15)]
    table = confusion(labels, [[1 / 15] * 15] * 15)
    assert all(table.count(f">{label}<") == 2 for label in labels)
    assert 'opacity="0"' not in table
