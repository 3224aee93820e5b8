"""What prepare logs of its plan: dropped labels, splits, sources, comparisons, files left over."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pix2score.catalog.counts import PlanCounts
from pix2score.dataset.card import SPLITS
from pix2score.dataset.comparisons import described, warnings
from pix2score.dataset.labels import described_labels
from pix2score.dataset.near_identical import spanning_warnings
from pix2score.dataset.plan import described_splits
from pix2score.dataset.resume import ResumedShards
from pix2score.dataset.sources import described_sources
from pix2score.heads.spec import HeadSpec
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)


def warn_of_leftovers(out: Folder, earlier: ResumedShards) -> None:
    """Warn of files that no receipt names; none is removed: another prepare may be at work on them."""
    named = {shard.path for shard in (*earlier.shards, *earlier.left_out)}
    old = [entry.path for split in SPLITS for entry in out.entries(f"split={split}", suffix=".parquet")]
    surplus = [path for path in old if path not in named]
    if surplus:
        logger.warning(
            "%d files of another attempt are in %s; dataset.json will not name them", len(surplus), out.uri
        )


def tell_plan(asked: Sequence[HeadSpec], fitted: Sequence[HeadSpec], counts: PlanCounts) -> None:
    """Log what heads learnt less of than was ``asked``, and which rows and labels the plan leaves out."""
    for wanted, head in zip(asked, fitted, strict=True):
        for line in head.fit_warnings(wanted):
            logger.warning("%s", line)
    for line in described_labels(asked, counts):
        logger.warning("%s", line)
    if counts.unknown_split:
        logger.warning(
            "%d rows left out: their split is not known: %s", counts.unknown_split, described_splits(counts)
        )
    for line in spanning_warnings(counts.near_identical):
        logger.warning("%s", line)
    if counts.comparisons:
        _tell_comparisons(counts)
    for line in described_sources(counts):
        logger.info("%s", line)
    if counts.key_of_another:
        logger.warning(
            "%d rows have a key that an earlier --catalog has: its row counts, these are left out; ids of "
            "their own keep both",
            counts.key_of_another,
        )
    if counts.bad_weight:
        logger.warning("%d rows left out: their weight is negative or no number", counts.bad_weight)


def _tell_comparisons(counts: PlanCounts) -> None:
    sets, images = (sum(counts.comparisons[name].values()) for name in ("sets_by_split", "images_by_split"))
    logger.info("comparisons: %s", described(counts.comparisons))
    logger.info(
        "each set is a row that holds its images: %d images in %d rows, beside %d rows of one image",
        images,
        sets,
        counts.planned - sets,
    )
    for line in warnings(counts.comparisons):
        logger.warning("%s", line)
