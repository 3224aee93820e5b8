"""The errors: the exit code of each, and that a failed image crosses a process boundary."""

from __future__ import annotations

import pickle
from collections.abc import Callable

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
    JobFailed,
    LimitError,
    Pix2ScoreError,
    StorageError,
    VerifyError,
    own_error,
)


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (ConfigError, 2),
        (DataError, 2),
        (AccessError, 2),
        (LimitError, 3),
        (ConflictError, 4),
        (StorageError, 1),
        (VerifyError, 1),
    ],
)
def test_every_error_has_the_documented_exit_code(error: type[Pix2ScoreError], exit_code: int) -> None:
    assert error("x").exit_code == exit_code


def test_the_docstring_names_every_error() -> None:
    named = [
        name for name, item in vars(errors).items() if isinstance(item, type) and issubclass(item, Exception)
    ]
    assert [name for name in named if name not in (errors.__doc__ or "")] == []


def test_refused_access_is_also_a_permission_error() -> None:
    assert issubclass(AccessError, PermissionError)


@pytest.mark.parametrize("kind", [DataError, AccessError, StorageError])
def test_the_text_of_an_error_stays_as_it_was_raised(kind: type[Pix2ScoreError]) -> None:
    error = kind("one clear line")
    error.args = ("one clear line\nand advice that somebody appended",)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(error), str(copy)) == (kind, "one clear line", "one clear line")


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


def test_the_detail_of_a_failure_is_text_that_every_table_takes() -> None:
    assert (
        ImageFailure("NOT_FOUND", "no such file: \udce7.png").detail.encode() == b"no such file: \\udce7.png"
    )


class RayTaskError(Exception):
    """As Ray's: looks like what it wraps, and holds it as ``cause``."""

    __module__ = "ray.exceptions"

    def __init__(self, cause: BaseException) -> None:
        super().__init__("a long text")
        self.cause = cause


class LooksLikeOurs(RayTaskError, DataError):
    """The class that Ray makes up for an error of ours."""

    __module__ = "ray.exceptions"


@pytest.mark.parametrize(
    "wrap", [lambda exc: exc, RayTaskError, LooksLikeOurs, lambda exc: RuntimeError(RayTaskError(exc))]
)
def test_our_own_error_is_found_in_what_ray_wraps_around_it(
    wrap: Callable[[BaseException], BaseException],
) -> None:
    ours = DataError("replaced")
    assert own_error(wrap(ours)) is ours
    assert own_error(wrap(ValueError("theirs"))) is None


def test_a_cause_that_leads_back_to_itself_ends_the_search() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert own_error(first) is None


def test_how_a_job_failed_travels_with_the_exception() -> None:
    ours = LimitError("too\nmany")
    JobFailed({"run": "r"}, ours).attach()
    failed = JobFailed.of(RayTaskError(ours), {"job": "other"})
    assert failed.report() == {"run": "r", "error": "LimitError", "message": "too many", "exit_code": 3}
    assert JobFailed.of(KeyError("k"), {"job": "score"}).report()["exit_code"] == 1
