"""score: every illustration of a catalog gets its predictions and embedding, or a named failure, in a new snapshot.

One streaming Ray Data execution: plan parts -> fetch and decode on CPUs -> predictor actors -> staged pieces. Then the narrow table is
rewritten and one create-if-absent publishes it all. The folder is ``snapshot``'s, the plan is ``plan``'s.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import tyro

from pix2score.account import recorded
from pix2score.artifact import ModelCard, load_model
from pix2score.catalog import Catalog, Columns, open_catalog
from pix2score.cluster import Device, Offer, on_cluster, session
from pix2score.command import as_plain
from pix2score.errors import ConfigError, LimitError
from pix2score.fetch import ImageRows, decoded_rows, log_failures, total_rows
from pix2score.image_source import image_source
from pix2score.plan import Part, PlanCounts, plan_scoring
from pix2score.progress import board
from pix2score.schema import EmbeddingDtype
from pix2score.score_stages import PieceSink, ScoreImages
from pix2score.snapshot import Layout, Receipt, Snapshot, assemble, live, live_number, new_run_id, publish
from pix2score.storage import Folder

logger = logging.getLogger(__name__)

MIN_FAILED_TO_STOP = 100
"""A run with no more failures than this is published whatever their share: on a small catalog a share says little."""
PART_ROWS_GPU = 16_384  # 64 MB of float16[2048]; some seconds of one GPU
PART_ROWS_CPU = 512  # about a minute of two cores with ResNet18; what a killed run may have to do again


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """Settings of ``jobs.score``."""

    catalog: str
    """Parquet file, or folder of them: a local path or s3://bucket/prefix."""
    model: str
    """Model folder that jobs.train made."""
    out: str
    """Scores folder; every night's snapshot goes to the same one."""
    image_root: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Another place that catalog uris may point into, beside the catalog's folder; may be repeated."""
    batch_size: int | None = None
    """Images per forward pass (default: 256 on a GPU, 32 on a CPU)."""
    part_rows: int | None = None
    """Rows per staged piece (default: 16384 with GPUs, 512 without)."""
    device: Device = "auto"
    """auto (GPU if the cluster has one), cpu or gpu."""
    gpu_wait_s: float = 0
    """Seconds to wait for the cluster's autoscaler to bring a GPU, if there is none."""
    embedding_dtype: EmbeddingDtype = "float16"
    """float32 is for readers without float16."""
    limit: int | None = None
    """Score only this many images, to see failures and the rate; publishes nothing, its rows stay in staged/<run>."""
    max_failed: float = 0.05
    """Publish nothing if more than this share of the images failed, and more than 100 of them."""
    max_removed: float = 0.05
    """Publish nothing if more than this share of the live snapshot's illustrations is gone from the catalog."""
    columns: Columns = field(default_factory=Columns)

    def __post_init__(self) -> None:
        for name in ("batch_size", "part_rows", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value}: at least 1")
        for name in ("max_failed", "max_removed"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)}: expected 0 to 1")


@dataclass(frozen=True, slots=True)
class _Run:
    """What one invocation works with."""

    config: ScoreConfig
    id: str
    card: ModelCard
    catalog: Catalog
    images: ImageRows
    out: Folder
    parent: int
    live_scores: list[str]
    layout: Layout


def score(config: ScoreConfig) -> dict[str, Any]:
    """A new snapshot of ``config.out`` is live; its counts come back.

    Raises:
        DataError: no catalog, no model, a column missing, zero rows. Nothing has been written then.
        LimitError: too many images failed; nothing is published, staged work is kept.
        ConflictError: another run published first.
    """
    run = _open(config)
    facts = {"job": "score", "run": run.id, "model_version": run.card.version}
    with session(gpu_wait_s=config.gpu_wait_s) as offer, recorded(run.out, f"runs/{run.id}/summary.json", facts) as summary:
        use_gpu = offer.wants_gpu(config.device)
        started = time.monotonic()
        parts, counts = on_cluster(
            plan_scoring,
            run.catalog,
            run.out,
            f"staged/{run.id}/plan",
            live_scores=run.live_scores,
            max_removed=config.max_removed,
            limit=config.limit,
        )
        _log_plan(run, counts)
        planned = time.monotonic()
        receipts = _execute(run, parts, offer, use_gpu)
        executed = time.monotonic()
        failed = _count_failed(receipts)
        log_failures(failed, run.catalog)
        summary.update(_counts(counts, failed))
        _check_limits(config, counts.planned, failed)
        snapshot = None if config.limit else _publish(run, receipts, counts, failed)
        timings = {"plan": planned - started, "execute": executed - planned, "publish": time.monotonic() - executed}
        summary["snapshot"] = snapshot.number if snapshot else None
        summary["stages_s"] = {name: round(seconds, 3) for name, seconds in timings.items()}
        summary["images_per_s"] = round(counts.planned / max(timings["execute"], 1e-9), 1)
        run.out.delete([part.path for part in parts])
    return summary


def _open(config: ScoreConfig) -> _Run:
    """Every input checked, before Ray starts and anything is written."""
    card, _ = load_model(config.model)  # all of it: altered weights are found here, not by an actor
    catalog = open_catalog(config.catalog, config.columns)
    images = ImageRows.of(catalog, image_source(catalog.folder.uri, config.image_root))
    out = Folder(config.out)
    layout = Layout(catalog.id_type, card.heads, card.embedding_dim, config.embedding_dtype)
    run_id = new_run_id(datetime.now(UTC).strftime("%Y%m%dT%H%M%S"))
    parent = live_number(out)
    live_scores = [file.path for file in live(config.out).files if file.table == "scores"] if parent else []
    return _Run(config, run_id, card, catalog, images, out, parent, live_scores, layout)


def _log_plan(run: _Run, counts: PlanCounts) -> None:
    logger.info("run %s: %d images to score with model %s", run.id, counts.planned, run.card.version)
    if counts.null_id or counts.duplicate_key:
        logger.info("left out: %d rows without an id, %d older rows of a key", counts.null_id, counts.duplicate_key)
    if run.catalog.fingerprint_kind == "uri":
        logger.info("the catalog has no fingerprint column: an image changed in place under the same uri goes unseen")


def _execute(run: _Run, parts: Sequence[Part], offer: Offer, use_gpu: bool) -> list[Receipt]:
    """read -> fetch and decode -> predict -> stage, as one streaming Ray Data execution."""
    config = run.config
    sink = PieceSink(
        run.out, run.id, run.card.version, run.layout, config.part_rows or (PART_ROWS_GPU if use_gpu else PART_ROWS_CPU)
    )
    batch_size = config.batch_size or (256 if use_gpu else 32)
    pool = offer.predictor_pool(use_gpu=use_gpu, num_batches=-(-total_rows(parts) // batch_size))
    settings = {"run": run.id, "layout": run.layout, "batch_size": batch_size, **offer.predictor_settings(use_gpu=use_gpu)}
    with board("scored", total_rows(parts), logger) as progress:
        (
            decoded_rows(run.out, parts, run.images, run.card.preprocess, offer)
            .map_batches(
                ScoreImages,
                fn_constructor_args=(config.model,),
                fn_constructor_kwargs={**settings, "progress": progress},
                batch_format="pyarrow",
                batch_size=batch_size,
                compute=pool,
                num_cpus=1,
                num_gpus=1 if use_gpu else 0,
            )
            .write_datasink(sink)
        )
    return sink.receipts


def _count_failed(receipts: Sequence[Receipt]) -> Counter[str]:
    failed: Counter[str] = Counter()
    for receipt in receipts:
        failed.update(receipt.failed)
    return failed


def _counts(counts: PlanCounts, failed: Counter[str]) -> dict[str, Any]:
    return {
        "snapshot": None,
        "scored": counts.planned,
        "carried": 0,
        "failed": failed.total(),
        "removed": counts.removed,
        "failed_by_code": dict(failed),
    }


def _check_limits(config: ScoreConfig, num_scored: int, failed: Counter[str]) -> None:
    if failed.total() > MIN_FAILED_TO_STOP and failed.total() > config.max_failed * num_scored:
        codes = ", ".join(f"{number} {code}" for code, number in failed.most_common())
        raise LimitError(
            f"{failed.total()} of {num_scored} images failed ({codes}), over --max-failed {config.max_failed:g}: nothing was published"
        )


def _publish(run: _Run, receipts: Sequence[Receipt], counts: PlanCounts, failed: Counter[str]) -> Snapshot:
    pieces = [file.path for receipt in receipts for file in receipt.files if file.table == "scores"]
    embeddings = [file for receipt in receipts for file in receipt.files if file.table == "embeddings"]
    scores = on_cluster(assemble, run.out, run.id, pieces, run.layout, counts.planned)
    manifest = {
        "run": run.id,
        "model_version": run.card.version,
        "preprocess_id": run.card.preprocess.id,
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "layout": run.layout.to_dict(),
        "catalog": {"uri": run.catalog.folder.uri, "files": [asdict(entry) for entry in run.catalog.files], **counts.to_dict()},
        "fingerprint_kind": run.catalog.fingerprint_kind,
        "files": [asdict(file) for file in [*scores, *embeddings]],
        "counts": {
            "rows": counts.planned,
            "scored": counts.planned,
            "carried": 0,
            "failed": failed.total(),
            "failed_by_code": dict(failed),
        },
        "config": as_plain(run.config),
    }
    snapshot = publish(run.out, run.parent, manifest)
    run.out.delete([*pieces, *(f"staged/{run.id}/{receipt.piece}.json" for receipt in receipts)])
    return snapshot
