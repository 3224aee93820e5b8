"""The account of a run: a summary written beside the output, whether the run ends well or not."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pix2score.errors import Pix2ScoreError, UserError
from pix2score.storage import Folder

logger = logging.getLogger(__name__)


class Summary(dict[str, Any]):
    """What a run did, to be filled while it works."""

    is_written: bool = True
    """False for a run that did nothing: it must leave nothing."""


class Laps:
    """Seconds that the parts of a run took, one after the other."""

    def __init__(self) -> None:
        self.began_at = time.time()
        """Seconds since 1970."""
        self.seconds: dict[str, float] = {}
        self._first = self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """What was done since the last lap is called ``name``."""
        now = time.monotonic()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._last, 3)
        self._last = now

    def total(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._first


@contextmanager
def recorded(folder: Folder, path: str, facts: dict[str, Any]) -> Iterator[Summary]:
    """A summary to fill, published at ``path`` with the seconds taken; with the error if the body raises.

    After a user's mistake nothing is written. The exception goes on, carrying the summary as its attribute ``summary``.
    """
    summary = Summary(facts)
    start = time.monotonic()
    try:
        yield summary
    except BaseException as exc:
        summary["seconds"] = round(time.monotonic() - start, 3)
        exc.summary = summary  # type: ignore[attr-defined]
        if summary.is_written and not isinstance(exc, UserError):
            _publish_failure(folder, path, summary, exc)
        raise
    summary["seconds"] = round(time.monotonic() - start, 3)
    if summary.is_written:
        _publish(folder, path, summary)


def _publish_failure(folder: Folder, path: str, summary: dict[str, Any], exc: BaseException) -> None:
    code = exc.exit_code if isinstance(exc, Pix2ScoreError) else 1
    content = {**summary, "error": type(exc).__name__, "message": str(exc), "exit_code": code}
    try:
        _publish(folder, path, content)
    except Exception as error:  # the failure itself must come out, not that it could not be written down
        logger.error("could not write %s: %s", folder.full(path), error)


def _publish(folder: Folder, path: str, content: dict[str, Any]) -> None:
    folder.publish(path, json.dumps(content, indent=1, ensure_ascii=False).encode(), replace=True)
