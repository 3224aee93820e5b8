"""The errors: the exit code of each, and that a failed image crosses a process boundary."""

from __future__ import annotations

import pickle

import pytest

from pix2score import errors
from pix2score.errors import (
    FETCH_ERROR_CODES,
    IMAGE_ERROR_CODES,
    MAX_DETAIL_CHARS,
    AccessError,
    ConfigError,
    ConflictError,
    DataError,
    ImageFailure,
    LimitError,
    Pix2ScoreError,
    StorageError,
    VerifyError,
)


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(ConfigError, 2), (DataError, 2), (AccessError, 2), (LimitError, 3), (ConflictError, 4), (StorageError, 1), (VerifyError, 1)],
)
def test_every_error_has_the_documented_exit_code(error: type[Pix2ScoreError], exit_code: int) -> None:
    assert error("x").exit_code == exit_code


def test_the_docstring_names_every_error() -> None:
    named = [name for name, item in vars(errors).items() if isinstance(item, type) and issubclass(item, Exception)]
    assert [name for name in named if name not in (errors.__doc__ or "")] == []


def test_refused_access_is_also_a_permission_error() -> None:
    assert issubclass(AccessError, PermissionError)


def test_an_image_failure_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(ImageFailure("CORRUPT", "PNG: broken")))
    assert (copy.code, copy.detail, str(copy)) == ("CORRUPT", "PNG: broken", "CORRUPT: PNG: broken")


def test_the_detail_of_a_failure_is_one_short_line() -> None:
    detail = ImageFailure("FETCH", "first\nsecond\t" + "x" * 1000).detail
    assert detail.startswith("first second x")
    assert len(detail) == MAX_DETAIL_CHARS


def test_codes_are_the_documented_ones_and_the_first_four_are_retried() -> None:
    retried = ("NOT_FOUND", "FORBIDDEN", "TIMEOUT", "FETCH")
    final = ("EMPTY", "UNSUPPORTED", "CORRUPT", "TRUNCATED", "TOO_LARGE", "CRASHED", "NONFINITE")
    assert retried + final == IMAGE_ERROR_CODES
    assert retried == FETCH_ERROR_CODES
