"""A mapped file has the numbers of the file, and holds no descriptor."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from pix2score.storage.mapped import mapped

KIND = np.dtype("float16")


def written(path: Path, rows: int = 700) -> np.ndarray:
    numbers = np.random.default_rng(0).random((rows, 33)).astype(KIND)
    path.write_bytes(numbers.tobytes())
    return numbers


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def addresses(name: str) -> int:
    return Path("/proc/self/maps").read_text().count(name)


def test_the_numbers_are_those_of_the_file_also_when_it_is_removed(tmp_path: Path) -> None:
    path, before = tmp_path / "numbers", descriptors()
    numbers = written(path)
    found = mapped(str(path), KIND, numbers.shape)
    path.unlink()
    np.testing.assert_array_equal(found, numbers)
    assert descriptors() == before


def test_the_memory_is_given_back_with_the_last_view(tmp_path: Path) -> None:
    path = tmp_path / "given-back"
    numbers = written(path)
    found = mapped(str(path), KIND, numbers.shape)
    row = found[5]
    del found
    gc.collect()
    assert addresses("given-back") == 1
    np.testing.assert_array_equal(row, numbers[5])
    del row
    gc.collect()
    assert not addresses("given-back")


def test_it_is_read_only(tmp_path: Path) -> None:
    """Writing to such a page would end the process."""
    written(tmp_path / "numbers")
    with pytest.raises(ValueError, match="read-only"):
        mapped(str(tmp_path / "numbers"), KIND, (700, 33))[0] = 1


def test_a_file_that_is_missing_or_short_is_named(tmp_path: Path) -> None:
    written(tmp_path / "numbers")
    with pytest.raises(ValueError, match="numbers is shorter than 46266 bytes"):
        mapped(str(tmp_path / "numbers"), KIND, (701, 33))
    with pytest.raises(FileNotFoundError):
        mapped(str(tmp_path / "other"), KIND, (1, 33))
    assert mapped(str(tmp_path / "numbers"), KIND, (0, 33)).shape == (0, 33)
