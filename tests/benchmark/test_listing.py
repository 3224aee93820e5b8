"""What a listing costs is measured on a server that makes up its pages."""

from __future__ import annotations

import pytest

from pix2score.benchmark.listing import WAYS, ListTiming, list_table, time_listing
from pix2score.benchmark.s3_server import listed_key, page_of


def test_each_way_lists_every_object_in_a_process_of_its_own() -> None:
    found = time_listing(2500)
    assert [(timing.way, timing.objects) for timing in found] == [(way, 2500) for way in WAYS]
    assert all(timing.cpu_s > 0 and timing.peak_mib > 10 for timing in found)


@pytest.mark.parametrize(
    ("after", "first", "number", "is_more"),
    [
        ("", 0, 1000, True),
        (listed_key("listed/2500", 999), 1000, 1000, True),
        ("listed/2500/000002/z", None, 0, False),
    ],
)
def test_a_page_begins_behind_the_key_that_is_asked_for(
    after: str, first: int | None, number: int, is_more: bool
) -> None:
    page = page_of("listed/2500", after)
    assert page.count("<Key>") == number
    assert ("<IsTruncated>true" in page) == is_more
    if first is not None:
        assert page.split("<Key>")[1].startswith(listed_key("listed/2500", first))


def test_the_table_has_a_line_for_each_way() -> None:
    lines = list_table([ListTiming("catalog", 10, 1.25, 0.5, 100)]).splitlines()
    assert lines[1].split() == ["catalog", "10", "1.2", "0.5", "100"]
