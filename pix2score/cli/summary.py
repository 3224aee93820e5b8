"""The account of a run: a summary written beside the output, whether the run ends well or not."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pix2score.errors import JobFailed, UserError, own_error
from pix2score.host import termination
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)


class Summary(dict[str, Any]):
    """What a run did, to be filled while it works."""

    is_written: bool = True
    """False for a run that did nothing: it must leave nothing."""


class StageTimer:
    """Seconds that the stages of a run took, one after the other."""

    def __init__(self) -> None:
        self.began_at = time.time()
        """Seconds since 1970."""
        self.seconds: dict[str, float] = {}
        self._first = self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """Add the seconds since the last lap to those of the stage ``name``."""
        now = time.monotonic()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._last, 3)
        self._last = now

    def total(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._first


@contextmanager
def recorded(folder: Folder, path: str, facts: dict[str, Any]) -> Iterator[Summary]:
    """A summary to fill, published at ``path`` with the seconds taken; with the error if the body raises.

    After a user's mistake that is found before there is anything to tell, nothing is written. The exception
    goes on, carrying its ``JobFailed`` and the summary as its attribute ``summary``; an error of ours that a
    worker raised goes on as itself.
    """
    summary = Summary(facts)
    start = time.monotonic()
    try:
        yield summary
    except BaseException as exc:
        termination.acknowledge(exc)
        cause = own_error(exc) or exc
        is_early = isinstance(cause, UserError) and cause is exc and summary == facts
        summary["seconds"] = round(time.monotonic() - start, 3)
        failed = JobFailed(summary, cause).attach()
        if summary.is_written and not is_early:
            _publish_failure(folder, path, failed)
        if cause is exc:
            raise
        raise cause from exc
    summary["seconds"] = round(time.monotonic() - start, 3)
    if summary.is_written:
        _publish(folder, path, summary)


def _publish_failure(folder: Folder, path: str, failed: JobFailed) -> None:
    try:
        _publish(folder, path, {**failed.report(), "message": str(failed.cause)})  # with its line breaks
    except Exception as error:  # the failure itself must come out, not that it could not be written down
        logger.error("could not write %s: %s", folder.full(path), error)


def _publish(folder: Folder, path: str, content: dict[str, Any]) -> None:
    try:
        data = json.dumps(content, indent=1, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a file name that is no UTF-8 holds halves of characters
        data = json.dumps(content, indent=1).encode()
    folder.publish(path, data, replace=True)
