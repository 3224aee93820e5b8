"""The errors of pix2score. Each maps to the exit code of a command.

    Pix2ScoreError            1  anything else that went wrong
    ├── UserError             2  the user can mend it: one clear line, no traceback
    │   ├── ConfigError          a flag, a configuration file, a model that does not fit
    │   │   └── VersionSkewError nodes of the cluster run on other versions than the driver
    │   └── DataError            a catalog, dataset, model or score folder that is not what it should be
    │       └── AccessError      credentials missing or refused; also a PermissionError
    ├── LimitError            3  a safety limit was passed: nothing published, staged work kept
    ├── ConflictError         4  another run published first: run again
    ├── TrainingError         1  training gave nothing that may be called a model
    ├── StorageError          1  object storage or disk failed for good; ``__cause__`` is the last error
    ├── TargetError           1  where a push sends to refused it, or failed; its position is kept
    ├── NotBetterError        1  a candidate model is not really better, and better was required
    └── VerifyError           1  a published snapshot does not hold what it promises

``ImageFailure`` is apart: a bad image is a failed row, never the end of a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

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
"""Codes that a later night tries again: what ends a decoder may come from outside too, such as the kernel's
want of memory."""

MAX_NIGHTS = 5
"""Nights on which a content is tried that cannot be fetched, and on which a key keeps the answer of its
earlier content meanwhile."""

MAX_DETAIL_CHARS = 200


class Pix2ScoreError(Exception):
    """Base of every error this package raises on purpose. Its text stays as it was raised: Ray Data appends
    advice to ``args``."""

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.message = str(args[0]) if args else ""

    def __str__(self) -> str:
        return self.message


class UserError(Pix2ScoreError):
    """The user's mistake: the message names the thing, the value, what was expected and what to do."""

    exit_code = 2


class ConfigError(UserError):
    """A setting is wrong, or settings contradict each other or an earlier run."""


class VersionSkewError(ConfigError):
    """Nodes run on other versions than the driver, or lack what it has; the message names both."""


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


class TargetError(Pix2ScoreError):
    """Where a push sends to refused it, or failed: it is as far as its position says, and the same command
    goes on from there. The message names it without its password."""


class TrainingError(Pix2ScoreError):
    """Training diverged or did nothing: there is no model to save."""


class NotBetterError(Pix2ScoreError):
    """The candidate of an evaluation is not really better than the model that it was compared with."""


class VerifyError(Pix2ScoreError):
    """Published files do not match their manifest or the invariants."""


class ImageFailure(Exception):
    """One image gave no pixels. ``code`` is an ``ImageErrorCode``; ``detail`` is one short line for a
    person."""

    def __init__(self, code: ImageErrorCode, detail: str) -> None:
        self.code: ImageErrorCode = code
        # A file name that is no UTF-8 holds halves of characters, which no table takes.
        self.detail = " ".join(detail.encode(errors="backslashreplace").decode().split())[:MAX_DETAIL_CHARS]
        super().__init__(f"{code}: {self.detail}")

    def __reduce__(self) -> tuple[type[ImageFailure], tuple[ImageErrorCode, str]]:
        return (ImageFailure, (self.code, self.detail))


@dataclass(frozen=True, slots=True)
class JobFailed:
    """How a job ended: ``summary`` is what it had to tell by then, ``cause`` the exception that ended it.

    Travels with the exception, so that what a caller catches is the exception itself.
    """

    summary: Mapping[str, Any]
    cause: BaseException

    @property
    def exit_code(self) -> int:
        """Of the command."""
        return self.cause.exit_code if isinstance(self.cause, Pix2ScoreError) else 1

    @property
    def message(self) -> str:
        """One line."""
        return " ".join(str(self.cause).split()) or type(self.cause).__name__

    def report(self) -> dict[str, Any]:
        """The summary with the error, for summary.json and the line of JSON."""
        return {
            **self.summary,
            "error": type(self.cause).__name__,
            "message": self.message,
            "exit_code": self.exit_code,
        }

    def attach(self) -> JobFailed:
        """The exception carries this from here on, and its summary as its attribute ``summary``."""
        self.cause.job_failed, self.cause.summary = self, self.summary  # type: ignore[attr-defined]
        return self

    @classmethod
    def of(cls, exc: BaseException, begun: Mapping[str, Any]) -> JobFailed:
        """What the exception carries; of one that carries nothing, with the summary ``begun``."""
        cause = own_error(exc) or exc
        carried: JobFailed | None = getattr(cause, "job_failed", None)
        return carried or cls(begun, cause)


def own_error(exc: BaseException) -> Pix2ScoreError | None:
    """The error of ours that ``exc`` is, or that Ray wraps up in what comes out of a task, an actor, a
    pipeline or a training worker."""
    seen: set[int] = set()
    pending = [exc]
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, Pix2ScoreError) and not is_rays(current):
            return current
        pending += wrapped(current)
    return None


def is_rays(exc: BaseException) -> bool:
    """Whether the class is Ray's: also that of an error that it makes look like the one it wraps."""
    return type(exc).__module__.partition(".")[0] == "ray"


def wrapped(exc: BaseException) -> Iterator[BaseException]:
    """Exceptions directly inside ``exc``: what caused it, and what Ray hands on as an argument or as failures
    of training workers."""
    failures = getattr(exc, "worker_failures", None)
    inside = [getattr(exc, "cause", None), getattr(exc, "_base_exc", None), *exc.args, exc.__cause__]
    inside += failures.values() if isinstance(failures, dict) else ()
    return (inner for inner in inside if isinstance(inner, BaseException))
