"""A night that is held back, made visible: the page of what would have been published."""

from __future__ import annotations

import logging

from pix2score.errors import Pix2ScoreError
from pix2score.snapshots.snapshot import Snapshot
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)


def show_held(out: Folder, run: str, draft: Snapshot, why: str) -> str:
    """Write the page of ``draft`` to ``runs/<run>/report.html``; return where it is, as words behind ``why``.

    Without the packages of a report there is none, and the log says so. That it cannot be written hides
    nothing: the night ends as it would have.
    """
    from pix2score.report.job import write_page

    place = out.full(f"runs/{run}/report.html")
    try:
        write_page(out, draft, place, why)
    except (Pix2ScoreError, OSError) as exc:
        logger.warning("no page of the night that is held back: %s", exc)
        return ""
    return f"; see {place}"
