"""The errors of pix2score. Each maps to the exit code of a command.

    Pix2ScoreError            1  anything else that went wrong
    ├── UserError             2  the user can mend it: one clear line, no traceback
    │   ├── ConfigError          a flag, a configuration file, a model that does not fit
    │   └── DataError            a catalog, dataset, model or score folder that is not what it should be
    │       └── AccessError      credentials missing or refused; also a PermissionError
    ├── LimitError            3  a safety limit was passed: nothing published, staged work kept
    ├── ConflictError         4  another run published first: run again
    ├── TrainingError         1  training gave nothing that may be called a model
    ├── StorageError          1  object storage or disk failed for good; ``__cause__`` is the last error
    ├── NotBetterError        1  a candidate model is not really better, and better was required
    └── VerifyError           1  a published snapshot does not hold what it promises

``ImageFailure`` stands apart: a bad image is a failed row, never the end of a run.
"""

from __future__ import annotations

from typing import Literal, get_args

ImageErrorCode = Literal[
    "NOT_FOUND",
    "FORBIDDEN",
    "TIMEOUT",
    "FETCH",
    "EMPTY",
    "UNSUPPORTED",
    "CORRUPT",
    "TRUNCATED",
    "TOO_LARGE",
    "CRASHED",
    "NONFINITE",
]
IMAGE_ERROR_CODES: tuple[str, ...] = get_args(ImageErrorCode)

FETCH_ERROR_CODES = IMAGE_ERROR_CODES[:4]
"""Codes that say nothing about the bytes: worth another try on another night."""

RETRIED_ERROR_CODES = (*FETCH_ERROR_CODES, "CRASHED")
"""Codes that a later night tries again: what ends a decoder may come from outside too, such as the kernel's want of memory."""

MAX_ATTEMPTS = 5
"""Nights on which a content is tried that cannot be fetched, and on which a key keeps the answer of its earlier content meanwhile."""

MAX_DETAIL_CHARS = 200


class Pix2ScoreError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class UserError(Pix2ScoreError):
    """The user's mistake: the message names the thing, the value, what was expected and what to do."""

    exit_code = 2


class ConfigError(UserError):
    """A setting is wrong, or settings contradict each other or an earlier run."""


class DataError(UserError):
    """An input is not what it should be."""


class AccessError(DataError, PermissionError):
    """Credentials are missing or refused; the message names the bucket or path, never a key or secret."""


class LimitError(Pix2ScoreError):
    """A safety limit was passed; nothing was published."""

    exit_code = 3


class ConflictError(Pix2ScoreError):
    """Another run published first; nothing of this one is live. Running it again is safe."""

    exit_code = 4


class StorageError(Pix2ScoreError):
    """Storage still fails after its retries."""


class TrainingError(Pix2ScoreError):
    """Training diverged or did nothing: there is no model to save."""


class NotBetterError(Pix2ScoreError):
    """The candidate of an evaluation is not really better than the model that it was compared with."""


class VerifyError(Pix2ScoreError):
    """Published files do not match their manifest or the invariants."""


class ImageFailure(Exception):
    """One image gave no pixels. ``code`` is an ``ImageErrorCode``; ``detail`` is one short line for a person."""

    def __init__(self, code: ImageErrorCode, detail: str) -> None:
        self.code: ImageErrorCode = code
        self.detail = " ".join(detail.split())[:MAX_DETAIL_CHARS]
        super().__init__(f"{code}: {self.detail}")

    def __reduce__(self) -> tuple[type[ImageFailure], tuple[ImageErrorCode, str]]:
        return (ImageFailure, (self.code, self.detail))
