"""The bytes that a process holds of images it has read are bounded, for all its threads together; nothing of
it gets lost."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2score.catalog.contents import ImageRows
from pix2score.errors import ImageFailure
from pix2score.host.budget import ByteBudget, bounded_runs
from pix2score.images.source import image_source
from pix2score.storage.folder import Folder
from tests.conftest import BUCKET

MIB = 2**20


def test_who_asks_for_more_than_is_free_waits_until_others_are_done() -> None:
    budget = ByteBudget(100)
    budget.take(70)
    waiting = threading.Thread(target=budget.take, args=(40,))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    budget.give(30)
    waiting.join(5)
    assert (waiting.is_alive(), budget.taken) == (False, 80)


def test_more_than_all_is_given_when_nothing_else_is_held() -> None:
    budget = ByteBudget(100, patience_s=5)
    started = time.monotonic()
    budget.take(1000)
    assert time.monotonic() - started < 1
    budget.give(1000)
    assert budget.taken == 0


def test_it_rather_goes_over_than_stands_still() -> None:
    budget = ByteBudget(100, patience_s=0.05)
    budget.take(100)
    budget.take(100)
    assert budget.taken == 200


@given(st.lists(st.integers(0, 100), max_size=40), st.integers(1, 150))
def test_runs_cover_all_in_order_and_stay_below_the_limit(sizes: list[int], most: int) -> None:
    bounds = list(bounded_runs(sizes, most))
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(len(sizes)))
    assert all(sum(sizes[start:stop]) <= most or stop - start == 1 for start, stop in bounds)


class Recorded(ByteBudget):
    """Remembers the most that was in flight."""

    peak = 0

    def take(self, size: int) -> None:
        super().take(size)
        self.peak = max(self.peak, self.taken)


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    recorded = Recorded(8 * MIB, patience_s=30)
    monkeypatch.setattr("pix2score.catalog.contents.in_flight", recorded)
    monkeypatch.setattr("pix2score.catalog.contents.BATCH_BYTES", 2 * MIB)
    return recorded


def sizes_of(number: int) -> int:
    """Bytes of picture ``number``: mostly small, some large, a few beyond what is read in one go."""
    return 3 * MIB if number % 29 == 5 else 700_000 if number % 7 == 3 else 1 + number * 131


def expected(uri: str | None) -> tuple[int, int] | str:
    if uri is None or uri.startswith("absent"):
        return "NOT_FOUND"
    number = int(uri)
    return sizes_of(number), number % 256


def facts(content: bytes | ImageFailure) -> tuple[int, int] | str:
    return content.code if isinstance(content, ImageFailure) else (len(content), content[-1])


@pytest.mark.parametrize("kind", ["local", pytest.param("s3", marks=pytest.mark.slow)])
def test_large_and_small_contents_come_in_order_within_the_budget(
    kind: str, budget: Recorded, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = str(tmp_path) if kind == "local" else str(request.getfixturevalue("s3_place"))
    client: Any = request.getfixturevalue("s3") if kind == "s3" else None
    for i in range(90):
        content = bytes([i]) * sizes_of(i)
        if client:
            client.put_object(Bucket=BUCKET, Key=f"{place.removeprefix(f's3://{BUCKET}/')}/{i}", Body=content)
        else:
            (tmp_path / str(i)).write_bytes(content)
    uris = [None if i % 17 == 2 else "absent" if i % 17 == 4 else str(i) for i in range(90)]
    images = ImageRows(image_source(place, ()), Folder(place), None, {})
    rows = pa.table({"uri": pa.array(uris, pa.string())})
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: [facts(content) for content in images.contents(rows)], range(4)))
    assert found == [[expected(uri) for uri in uris]] * 4
    assert budget.taken == 0
    assert budget.peak <= 8 * MIB


def test_reading_that_is_given_up_gives_all_back(budget: Recorded, tmp_path: Path) -> None:
    for i in range(64):
        (tmp_path / str(i)).write_bytes(os.urandom(MIB if i % 3 else 50_000))  # some read at once, some later
    images = ImageRows(image_source(str(tmp_path), ()), Folder(str(tmp_path)), None, {})
    for stop in (0, 1, 2, 7, 33):
        contents = images.contents(pa.table({"uri": [str(i) for i in range(64)]}))
        for _ in range(stop):
            next(contents)
        contents.close()
        assert budget.taken == 0


def test_an_error_while_reading_gives_all_back(budget: Recorded, tmp_path: Path) -> None:
    class Broken(type(image_source(str(tmp_path), ()))):  # type: ignore[misc]
        def read_up_to(self, most_bytes: int, uris: Any) -> Any:
            raise OSError("as if the machine had no thread left")

    images = ImageRows(Broken(str(tmp_path)), Folder(str(tmp_path)), None, {})
    with pytest.raises(OSError, match="no thread left"):
        list(images.contents(pa.table({"uri": ["a"]})))
    assert budget.taken == 0
