"""report: one night as one HTML file.

Counts, rate, failures, how each head's answers moved since the night before, pictures.

Streams the scores table; holds counts and a few rows, whatever the number of images.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

from PIL import Image

from pix2score.catalog.catalog import place_of
from pix2score.catalog.keys import Key
from pix2score.catalog.originals import original_images
from pix2score.errors import DataError, ImageFailure
from pix2score.heads.spec import HeadSpec
from pix2score.images.decoder import Decoder
from pix2score.images.encode import encode
from pix2score.images.preprocess import Preprocess
from pix2score.report.config import ReportConfig
from pix2score.report.drift import drifts
from pix2score.report.night import NightStats
from pix2score.report.night_page import night_page
from pix2score.report.page import check_packages, encoded
from pix2score.snapshots.drift import comparable
from pix2score.snapshots.manifest import live, read_snapshot
from pix2score.snapshots.snapshot import Snapshot
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches
from pix2score.summaries import ReportSummary

logger = logging.getLogger(__name__)
THUMBNAIL = Preprocess(size=160, resize="pad")


def report(config: ReportConfig) -> ReportSummary:
    """Write the live snapshot's report to ``config.out``; return its main facts.

    Raises ``DataError`` if there are no scores, ``ConfigError`` if the packages of a report are missing.
    """
    check_packages()
    facts = write_page(Folder(config.scores), live(config.scores), config.out)
    return cast("ReportSummary", {"job": "report", **facts})


def write_page(folder: Folder, snapshot: Snapshot, place: str, held: str = "") -> dict[str, Any]:
    """Write the page of a snapshot to ``place``; return its main facts.

    ``held``: why it is not published, of one that only might be: its files are in the folder, its manifest is
    not. Raises ``ConfigError`` if the packages of a report are missing.
    """
    check_packages()
    night = _read(folder, snapshot, snapshot.layout.heads)
    before = _before(folder, snapshot)
    drift = drifts(night, before)
    page = night_page(snapshot, night, before, drift, _thumbnails(snapshot, night), held)
    out = Folder(place)
    size = out.parent.publish(out.name, page, replace=True)
    return {
        "snapshot": snapshot.number,
        "rows": night.rows,
        "failed": night.failed.total(),
        "pending": night.pending,
        "psi": {name: found.whole for name, found in drift.items()},
        "psi_scored_this_night": {name: found.fresh for name, found in drift.items()},
        "bytes": size,
    }


def _read(folder: Folder, snapshot: Snapshot, heads: Sequence[HeadSpec]) -> NightStats:
    columns = ["illust_id", "page", "status", "error_code", "error_detail", "run"]
    columns += [name for head in heads for name in head.night_columns]
    night = NightStats(heads, snapshot.manifest["run"])
    for batch in parquet_batches(
        folder, [file.path for file in snapshot.files if file.table == "scores"], columns
    ):
        night.add(batch)
    return night


def _before(folder: Folder, snapshot: Snapshot) -> NightStats | None:
    """What the parent snapshot says by the heads that it has too, if it still exists and there are any."""
    parent = snapshot.manifest.get("parent")
    try:
        previous = read_snapshot(folder, parent) if parent else None
        heads = comparable(snapshot.layout.heads, previous.layout.heads) if previous else []
        return _read(folder, previous, heads) if previous and heads else None
    except (DataError, FileNotFoundError) as exc:  # removed by vacuum
        logger.info("no snapshot to compare with: %s", exc)
        return None


def _thumbnails(snapshot: Snapshot, night: NightStats) -> dict[Key, str]:
    """Pictures of the rows that the page shows, as far as they still exist and decode.

    They are decoded in a child process.
    """
    shown = [
        *night.drawn,
        *(row for rows in [*night.extremes.values(), *night.failures.values()] for row in rows),
    ]
    keys = list(dict.fromkeys((row["illust_id"], row["page"]) for row in shown))
    if "catalog" not in snapshot.manifest:
        return {}
    decode, found = Decoder(THUMBNAIL), {}
    for key, content in original_images(
        place_of(snapshot.manifest["catalog"]), snapshot.manifest["config"], keys
    ).items():
        try:
            if isinstance(content, bytes):
                found[key] = encoded(_jpeg(decode(content)))
        except ImageFailure as failure:
            logger.info("no picture of %s: %s", key, failure)
    decode.close()
    return found


def _jpeg(pixels: bytes) -> bytes:
    return encode(Image.frombytes("RGB", (THUMBNAIL.size, THUMBNAIL.size), pixels), quality=80)
