"""score: every illustration of a catalog gets its predictions and embedding, or a named failure, in a new
snapshot.

One streaming Ray Data execution: plan parts -> fetch and decode on CPUs -> predictor actors -> staged pieces.
What is scored is ``scoring_plan``'s, how it becomes live ``publishing``'s, what is told about it
``score_account``'s.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pix2score.catalog.catalog import Catalog, open_catalog
from pix2score.catalog.contents import ImageRows, log_failures
from pix2score.cli.flags import as_plain
from pix2score.cli.summary import Laps, Summary, recorded
from pix2score.cluster.local import MIN_LOCAL_CPUS, BackgroundCall, has_local_gpu, is_local
from pix2score.cluster.offer import Offer
from pix2score.cluster.session import session
from pix2score.cluster.tasks import workers
from pix2score.errors import ConfigError, StorageError
from pix2score.images.source import image_source
from pix2score.model.folder import ModelCard, load_model
from pix2score.nightly.executor import Workers
from pix2score.nightly.plan import ScoringPlan, ScoringRequest, plan_scoring
from pix2score.nightly.publish import Publication, publish_night
from pix2score.score.account import (
    Tally,
    estimate,
    log_estimate,
    log_plan,
    plan_summary,
    rate_summary,
    scored_summary,
)
from pix2score.score.config import ScoreConfig
from pix2score.snapshots.leases import Holder, Lease, this_process
from pix2score.snapshots.manifest import Snapshot, live_number, new_run_id, read_snapshot
from pix2score.snapshots.pieces import STAGED, Origin, Receipt
from pix2score.snapshots.tables import Layout
from pix2score.storage.folder import Folder

if TYPE_CHECKING:
    from pix2score.score.pipeline import ScorePipeline


logger = logging.getLogger(__name__)

BATCH_SIZE_GPU, BATCH_SIZE_CPU = 256, 16
PART_ROWS_GPU = 16_384  # 64 MB of float16[2048]; some seconds of one GPU
PART_ROWS_CPU = 512  # a piece closes after a minute anyway
# of a local Ray without GPUs: the predictor, and an actor of Ray Data's own, each in a process that starts
# with it
LOCAL_SLOTS = 2
SMALL_BYTES, SMALL_ROWS = 2**20, 20_000  # of a catalog and a live snapshot: sorted in some 20 MB
MAX_ROUNDS = 5  # of planning again what a part of the cluster took with it


@dataclass(frozen=True, slots=True)
class _Run:
    """What one invocation works with."""

    config: ScoreConfig
    origin: Origin
    card: ModelCard
    catalog: Catalog
    images: ImageRows
    out: Folder
    live: Snapshot | None
    layout: Layout
    laps: Laps
    holder: Holder

    @property
    def id(self) -> str:
        return self.origin.run


def score(config: ScoreConfig) -> dict[str, Any]:
    """A new snapshot of ``config.out`` is live, unless nothing had changed; its counts come back.

    Raises:
        DataError: no catalog, no model, a column missing, zero rows. Nothing has been written then.
        LimitError: too many images failed, or too many keys are gone; nothing is published, staged work is
            kept.
        ConflictError: another run published first.
    """
    run = _open(config, Laps())
    facts = {"job": "score", "run": run.id, "model_version": run.card.version}
    planning = BackgroundCall(lambda: _plan_first(run))
    ahead = planning if _is_small(run) else None
    min_slots = MIN_LOCAL_CPUS if has_local_gpu() else LOCAL_SLOTS
    with (
        session(gpu_wait_s=config.gpu_wait_s, ahead=ahead, min_slots=min_slots) as offer,
        recorded(run.out, f"runs/{run.id}/summary.json", facts) as summary,
    ):
        run.laps.lap("start_ray")
        summary.is_written = not config.dry_run
        use_gpu = offer.wants_gpu(config.device)
        if config.decode == "gpu" and not use_gpu:
            raise ConfigError(
                "decode gpu: this Ray has no GPU; leave it out, or wait for one with --gpu-wait-s"
            )
        plan = planning.result()
        run.laps.lap("plan")
        log_plan(run.id, run.catalog, plan)
        summary.update({"snapshot": None, **plan_summary(plan.counts)})
        if config.dry_run:
            _tell_estimate(run, plan, summary)
        elif not plan.counts.planned and not plan.counts.removed:
            _tell_nothing_to_do(run, plan, summary)
        else:
            with Lease(run.out, run.id, run.holder).kept():
                _score_and_publish(run, plan, offer, use_gpu, summary)
        summary |= {"began_at": run.laps.began_at, "stages_s": run.laps.seconds}
    return summary


def _open(config: ScoreConfig, laps: Laps) -> _Run:
    """Every input checked, before Ray starts and anything is written."""
    card, _ = load_model(config.model)  # all of it: altered weights are found here, not by an actor
    catalog = open_catalog(config.catalog, config.columns)
    images = ImageRows.of(catalog, image_source(catalog.folder.uri, config.image_root))
    out = Folder(config.out)
    if config.decode == "gpu" and card.preprocess.resize != "squash":
        raise ConfigError(
            "decode gpu: it squashes pictures, and the model was trained with resize "
            f"{card.preprocess.resize}"
        )
    layout = Layout(catalog.id_type, card.heads, card.embedding_dim, config.embedding_dtype)
    parent = live_number(out)
    run_id = new_run_id(datetime.now(UTC).strftime("%Y%m%dT%H%M%S"))
    origin = Origin(run=run_id, model_version=card.version, parent=parent, full=config.full)
    live = read_snapshot(out, parent) if parent else None
    laps.lap("check_inputs")
    return _Run(config, origin, card, catalog, images, out, live, layout, laps, this_process())


def _plan_first(run: _Run) -> ScoringPlan:
    import pix2score.score.pipeline  # noqa: F401 - takes a second, while a local Ray starts

    return _plan(run, "plan")


def _plan(run: _Run, name: str) -> ScoringPlan:
    config = run.config
    request = ScoringRequest(
        origin=run.origin,
        layout=run.layout,
        live=run.live,
        retry_failed=config.retry_failed,
        limit=config.limit,
        max_removed=config.max_removed,
        max_changed=config.max_changed,
        places=run.images.source.places,
        holder=run.holder,
    )
    place = f"{STAGED}/{run.id}/{name}"
    return _workers(run).call(plan_scoring, run.catalog, run.out, place, request, dry_run=config.dry_run)


def _workers(run: _Run) -> Workers:
    """Where the plan is made and the snapshot written."""
    return workers(small=_is_small(run))


def _is_small(run: _Run) -> bool:
    """Whether a plan can be made in this process; a Ray task makes it otherwise, which needs a Ray that has
    started."""
    catalog_bytes = sum(entry.size for entry in run.catalog.files)
    live_rows = sum(file.rows for file in run.live.files_of("scores")) if run.live else 0
    return catalog_bytes <= SMALL_BYTES and live_rows <= SMALL_ROWS


def _tell_estimate(run: _Run, plan: ScoringPlan, summary: Summary) -> None:
    element = 2 if run.layout.embedding_dtype == "float16" else 4
    narrow = 100 + sum(4 * (head.num_bins + 3) for head in run.layout.heads)
    facts = estimate(plan.counts, run.live, run.layout.embedding_dim * element + narrow)
    log_estimate(facts)
    summary.update({"dry_run": True, "to_score": plan.counts.to_score, **facts})


def _tell_nothing_to_do(run: _Run, plan: ScoringPlan, summary: Summary) -> None:
    """No pipeline, no snapshot, no file."""
    summary.is_written = False
    number = run.live.number if run.live else None
    logger.info("nothing to do: snapshot %s is what the catalog and the model ask for", number)
    summary.update({**scored_summary(plan.counts, Counter()), "snapshot": number, "images_per_s": 0.0})


def _score_and_publish(run: _Run, plan: ScoringPlan, offer: Offer, use_gpu: bool, summary: Summary) -> None:
    if run.config.limit is None:
        run.out.prove_exclusive()  # before anything is scored that could not be published
    started = time.monotonic()
    num_first = plan.counts.planned - plan.counts.retry
    tally = Tally(
        run.config.max_failed,
        num_first,
        failed_again=plan.taken_failed_again,
        failed=Counter(plan.taken_failed),
    )
    pipeline = _pipeline(run, offer, use_gpu)
    try:
        plan, receipts = _execute(run, plan, pipeline, tally)
        if run.config.limit is None and run.config.max_failed < 1:  # 1 says that any share will do
            tally.check_end(plan.counts.keys)
    finally:
        wall_s = time.monotonic() - started
        log_failures(tally.failed, run.catalog, run.config.image_root)
        summary.update({**scored_summary(plan.counts, tally.failed), "repeated": tally.repeats.summary()})
        tally.repeats.log(logger)
        rates = rate_summary(tally.measured, pipeline.slots(plan.counts.to_score), tally.rows, wall_s)
        summary.update(rates)
    if run.config.limit is None:
        overhead_s = run.laps.total() - wall_s
        account = {
            "images": tally.rows,
            "seconds": round(wall_s, 3),
            "overhead_s": round(overhead_s, 3),
            **rates,
        }
        snapshot = _publish(run, plan, receipts, {**account, **scored_summary(plan.counts, tally.failed)})
        summary["snapshot"] = snapshot.number
        run.laps.lap("publish")


def _execute(
    run: _Run, plan: ScoringPlan, pipeline: ScorePipeline, tally: Tally
) -> tuple[ScoringPlan, list[Receipt]]:
    """Every planned row is staged. What a lost node took with it is planned again: resuming, within the
    run."""
    for number in range(1, MAX_ROUNDS + 1):
        receipts: list[Receipt] = []
        for receipt in pipeline.receipts(plan.parts, f"piece-{number}") if plan.counts.to_score else ():
            run.laps.lap("score" if receipts else "first_piece")
            receipts.append(receipt)
            tally.add(receipt)
        missing = plan.counts.to_score - sum(receipt.rows for receipt in receipts)
        if not missing:
            return plan, receipts
        if not receipts or run.config.limit is not None:  # a limited plan made anew would be of other images
            break
        logger.warning("%d images were lost with a part of the cluster: they are planned again", missing)
        plan = _plan(run, f"plan-{number + 1}")
        tally.begin_again(plan.taken_failed, plan.taken_failed_again)
    raise StorageError(
        f"run {run.id}: {missing} images were lost with parts of the cluster again and again; staged work is "
        "kept"
    )


def _pipeline(run: _Run, offer: Offer, use_gpu: bool) -> ScorePipeline:
    from pix2score.score.pipeline import ScorePipeline

    config = run.config
    return ScorePipeline(
        model=config.model,
        preprocess=run.card.preprocess,
        origin=run.origin,
        layout=run.layout,
        images=run.images,
        out=run.out,
        offer=offer,
        use_gpu=use_gpu,
        is_apart=use_gpu or not is_local(),
        decodes_on_device=config.decode == "gpu",
        engine=config.engine,
        compiled=config.compile,
        batch_size=config.batch_size or (BATCH_SIZE_GPU if use_gpu else BATCH_SIZE_CPU),
        part_rows=config.part_rows or (PART_ROWS_GPU if use_gpu else PART_ROWS_CPU),
    )


def _publish(run: _Run, plan: ScoringPlan, receipts: list[Receipt], account: dict[str, Any]) -> Snapshot:
    catalog = run.catalog
    facts = {
        "preprocess_id": run.card.preprocess.id,
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "catalog": {"uri": catalog.folder.uri, "files": [asdict(entry) for entry in catalog.files]},
        "fingerprint_kind": catalog.fingerprint_kind,
        "places": list(run.images.source.places),
        "account": account,
        "config": as_plain(run.config),
    }
    return publish_night(
        Publication(run.out, run.origin, run.layout, run.live, plan, receipts), facts, _workers(run)
    )
