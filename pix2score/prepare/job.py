"""prepare: a catalog becomes a training set of mixed Parquet shards, with bins learnt from its train split.

Owns the dataset folder:

    dataset.json                          written last: heads with edges, counts, what was dropped and why,
                                          the list of shards
    split=train|val|test/part-*.parquet   ``dataset.card.dataset_schema``
    failed/part-*.parquet                 key, error_code and error_detail of rows whose image gave nothing
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from typing import cast

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.contents import ImageRows, log_failures_of
from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.rows import SOURCE, WEIGHT
from pix2score.catalog.several import open_catalogs
from pix2score.cli.summary import recorded
from pix2score.cluster.decode import decoded_blocks, decoded_rows
from pix2score.cluster.offer import Offer
from pix2score.cluster.progress import Meter
from pix2score.cluster.rounds import Rounds
from pix2score.cluster.session import session
from pix2score.cluster.sink import Staging
from pix2score.cluster.tasks import on_cluster
from pix2score.dataset.card import CARD
from pix2score.dataset.comparisons import open_comparisons
from pix2score.dataset.near_identical import open_near_identical
from pix2score.dataset.plan import SplitRule, plan_dataset
from pix2score.dataset.resume import ResumedShards, resume_shards
from pix2score.dataset.shards import Shard, ShardWriter, shard_rows_of, staged_shards
from pix2score.errors import ConfigError, DataError, LimitError, StorageError
from pix2score.heads.spec import HeadSpec
from pix2score.images.failure_limits import ALL_MISSING_ROWS, check_failed
from pix2score.images.repeats import Repeats
from pix2score.prepare.card import card_summary, dataset_card, failed_by_code, publish_card
from pix2score.prepare.config import PrepareConfig
from pix2score.prepare.sets import decoded_sets
from pix2score.prepare.telling import tell_plan, warn_of_leftovers
from pix2score.prepare.work import Work, plan_id, shard_schema
from pix2score.storage.folder import Folder
from pix2score.storage.parts import Part, total_rows
from pix2score.summaries import PrepareSummary

logger = logging.getLogger(__name__)


def prepare(config: PrepareConfig) -> PrepareSummary:
    """Make the dataset at ``config.out``; return its counts.

    Raises:
        DataError: no catalog, a column missing, nothing to train on, or ``out`` already holds a dataset.
        ConfigError: the settings contradict each other.
        LimitError: too many images failed; no dataset is made, what is done is kept for the next attempt.
    """
    heads = config.head_specs()
    asked = {SOURCE: config.source_column, WEIGHT: config.weight_column}
    extras = {ours: name for ours, name in asked.items() if name}
    catalogs = open_catalogs(config.catalogs, config.columns, heads, extras)
    comparisons = open_comparisons(config.comparisons) if config.comparisons else None
    alike = open_near_identical(config.duplicates, config.duplicates_rule) if config.duplicates else None
    images = ImageRows.of_all(catalogs, config.image_root)
    out = Folder(config.out)
    for catalog in catalogs.members:
        _refuse_catalogs_own_folder(catalog, out)
    if out.is_file(CARD):
        raise DataError(f"{config.out} already holds a dataset; give another --out, or remove it first")
    staged = f"staged/{plan_id(config, catalogs, comparisons, alike)}"
    work = Work(config, catalogs, heads, images, out, staged, comparisons, config.rules(), alike)
    with session() as offer, recorded(out, "summary.json", {"job": "prepare", "out": out.uri}) as summary:
        fitted, counts, done = _write_shards(work, offer)
        log_failures_of(failed_by_code(done.shards), catalogs, config.image_root)
        shards = sorted(done.shards, key=lambda shard: shard.path)
        _check_any_training(work, done)
        content = dataset_card(config, catalogs, fitted, counts, shards)
        publish_card(out, content)
        _clear(work, done.left_out)
        summary.update(card_summary(content))
    return cast("PrepareSummary", summary)


def _refuse_catalogs_own_folder(catalog: Catalog, out: Folder) -> None:
    """A dataset among the files of the catalog would be read as part of it."""
    inside = out.uri == catalog.folder.uri or out.uri.startswith(f"{catalog.folder.uri.rstrip('/')}/")
    nested = any("/" in entry.path for entry in catalog.files)
    if out.uri == catalog.folder.uri or (inside and nested):
        raise ConfigError(
            f"--out {out.uri} lies in the catalog's own folder {catalog.folder.uri}, which is never written; "
            "give another"
        )


def _write_shards(work: Work, offer: Offer) -> tuple[list[HeadSpec], PlanCounts, ResumedShards]:
    """Write every planned row to one shard, resuming those of earlier attempts; return heads, counts, shards.

    Raises ``LimitError`` if too many images failed.
    """
    work.out.prove_exclusive()  # before hours of work that could not be published
    done = _resumed(work)
    warn_of_leftovers(work.out, done)
    parts, counts, fitted = _plan(work, done)
    if total_rows(parts) + done.rows != counts.planned:
        logger.warning(
            "what earlier attempts staged is not of this plan: it is left out, and everything is done again"
        )
        done = ResumedShards((), (*done.shards, *done.left_out))
        parts, counts, fitted = _plan(work, done)
    tell_plan(work.heads, fitted, counts)
    logger.info("preparing %d images, %d of them done by an earlier attempt", counts.planned, done.rows)
    rounds = Rounds()
    for number in rounds:
        if number > 1:
            parts, _, _ = _plan(work, done)
        _check_failed(work, done.shards, counts.planned)
        before = done.rows
        done = _round(work, parts, fitted, offer, done, counts.planned) if parts else done
        rounds.ended(counts.planned - before, done.rows - before)
    if not rounds.missing:
        return fitted, counts, done
    raise StorageError(
        f"planned {counts.planned} images, {rounds.missing} of them are not written: no dataset was made"
    )


def _resumed(work: Work) -> ResumedShards:
    receipts = staged_shards(work.out, work.staged)
    return on_cluster(resume_shards, work.out, receipts, shard_schema(work)) if receipts else ResumedShards()


def _plan(work: Work, done: ResumedShards) -> tuple[list[Part], PlanCounts, list[HeadSpec]]:
    """Parts of what is not ``done``."""
    config = work.config
    rule = SplitRule(
        val_fraction=config.val_fraction, test_fraction=config.test_fraction, max_pages=config.max_pages
    )
    prefix = f"{work.staged}/plan-{uuid.uuid4().hex[:12]}/rows"
    paths = [shard.path for shard in done.shards]
    return on_cluster(
        plan_dataset,
        *(work.catalogs, work.heads, rule, work.out, prefix, paths, work.comparisons, work.rules, work.alike),
    )


def _round(
    work: Work,
    parts: Sequence[Part],
    heads: Sequence[HeadSpec],
    offer: Offer,
    done: ResumedShards,
    num_planned: int,
) -> ResumedShards:
    """Read, fetch and shrink, write, in one streaming Ray Data execution; return ``done`` and its shards."""
    image_size = work.config.image_size
    write = ShardWriter(out=work.out, heads=tuple(heads), schema=shard_schema(work), staged=work.staged)
    blocks = decoded_sets if work.comparisons else decoded_blocks
    dataset = decoded_rows(work.out, parts, work.images, image_size, offer, blocks=blocks)
    meter = Meter("prepared", total_rows(parts), logger)
    staging = Staging(
        dataset, write, shard_rows_of(image_size), prefix=f"piece-{uuid.uuid4().hex[:8]}", meter=meter
    )
    shards, repeated = list(done.shards), Repeats()
    for receipt in staging.receipts():
        shards += receipt.shards
        repeated.add(receipt.repeated)
        _check_failed(work, shards, num_planned)
    repeated.log(logger)
    return ResumedShards(tuple(shards), done.left_out)


def _check_failed(work: Work, shards: Sequence[Shard], num_planned: int) -> None:
    """Raise ``LimitError``, with the failures in the log, if too many images failed."""
    failed, num_done = failed_by_code(shards), sum(shard.rows for shard in shards)
    if failed.total() == num_planned < ALL_MISSING_ROWS:
        return  # nothing is worth keeping: an error of its own says so
    try:
        check_failed(failed, num_done, num_planned, work.config.max_failed)
    except LimitError:
        log_failures_of(failed, work.catalogs, work.config.image_root)
        raise


def _clear(work: Work, surplus: Sequence[Shard]) -> None:
    """Remove the plan, the receipts, and the shards that only they name."""
    work.out.delete([f"{work.staged}/{entry.path}" for entry in (work.out / work.staged).entries()])
    work.out.delete([shard.path for shard in surplus])


def _check_any_training(work: Work, done: ResumedShards) -> None:
    """A dataset without a training image is none."""
    if not any(shard.split == "train" for shard in done.shards):
        _clear(work, (*done.shards, *done.left_out))
        codes = ", ".join(f"{number} {code}" for code, number in failed_by_code(done.shards).most_common())
        raise DataError(
            f"no training image of catalog {work.catalogs.place} could be read ({codes}): no dataset was made"
        )
