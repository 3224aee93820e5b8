"""score: every illustration of a catalog gets its predictions and embedding, or a failure, in a new snapshot.

One streaming Ray Data execution: plan parts -> fetch and decode on CPUs -> predictor actors -> staged pieces.
What is scored is the matter of ``nightly.plan``, how it is staged of ``staging``, how it becomes live of
``nightly.publish``, what is reported about it of ``account``.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from pix2score.cli.flags import as_plain
from pix2score.cli.summary import StageTimer, Summary, recorded
from pix2score.cluster.local import MIN_LOCAL_CPUS, BackgroundCall, has_local_gpu, is_local
from pix2score.cluster.offer import Offer
from pix2score.cluster.session import session
from pix2score.errors import ConfigError
from pix2score.model.predictor import check_engine, check_precision, graph_if_absent
from pix2score.nightly.gate import DriftGate
from pix2score.nightly.plan import ScoringPlan
from pix2score.nightly.publication import Publication
from pix2score.nightly.publish import publish_night
from pix2score.score.account import (
    estimate,
    log_estimate,
    log_plan,
    plan_summary,
    scored_summary,
)
from pix2score.score.config import ScoreConfig
from pix2score.score.held import show_held
from pix2score.score.leftover import discard_plan, is_as_before, staged_summary
from pix2score.score.run import Run, executor, first_plan, is_small, open_run
from pix2score.score.staging import Staged, stage
from pix2score.snapshots.leases import Lease
from pix2score.summaries import ScoreSummary

if TYPE_CHECKING:
    from pix2score.score.again import AnswerPipeline
    from pix2score.score.pipeline import ScorePipeline


logger = logging.getLogger(__name__)

BATCH_SIZE_GPU, BATCH_SIZE_CPU = 256, 16
PART_ROWS_GPU = 16_384  # 64 MB of float16[2048]; some seconds of one GPU
PART_ROWS_CPU = 512  # a piece closes after a minute anyway
MAX_PIECES, MOST_PART_ROWS = 8192, 32_768  # of a run; and of a piece, 128 MB of float16[2048]
# of a local Ray without GPUs: the predictor, and an actor of Ray Data's own, each in a process that starts
# with it
LOCAL_SLOTS = 2


def score(config: ScoreConfig) -> ScoreSummary:
    """Make a new snapshot of ``config.out`` live, unless nothing had changed; return its counts.

    Raises:
        DataError: no catalog, no model, a column missing, zero rows. Nothing has been written then.
        LimitError: too many images failed, too many keys left the catalog, or the answers moved too far from
            those that are live; nothing is published, staged work is kept.
        ConflictError: another run published first.
    """
    run = open_run(config, StageTimer())
    facts = {"job": "score", "run": run.id, "model_version": run.origin.model_version, **run.engine_facts()}
    planning = BackgroundCall(lambda: first_plan(run))
    ahead = planning if is_small(run) else None
    min_slots = MIN_LOCAL_CPUS if has_local_gpu() else LOCAL_SLOTS
    with (
        session(gpu_wait_s=config.gpu_wait_s, ahead=ahead, min_slots=min_slots) as offer,
        recorded(run.out, f"runs/{run.id}/summary.json", facts) as summary,
    ):
        run.laps.lap("start_ray")
        summary.is_written = not config.dry_run
        use_gpu = _wants_gpu(config, offer)
        plan = planning.result()
        run.laps.lap("plan")
        log_plan(run.id, run.catalog, plan)
        run.monitor.live(run.live)
        summary.update({"snapshot": None, **plan_summary(plan.counts)})
        if config.dry_run:
            _report_estimate(run, plan, summary)
        elif plan.counts.changes_nothing:
            _report_nothing_to_do(run, plan, summary)
        else:
            with Lease(run.out, run.id, run.holder).kept():
                _score_and_publish(run, plan, offer, use_gpu, summary)
        summary |= {"began_at": run.laps.began_at, "stages_s": run.laps.seconds}
    return cast("ScoreSummary", summary)


def _wants_gpu(config: ScoreConfig, offer: Offer) -> bool:
    """Whether GPUs are used. Raises ``ConfigError`` for settings that what there is cannot follow."""
    use_gpu = offer.wants_gpu(config.device)
    device = "cuda" if use_gpu else "cpu"
    check_precision(config.precision, device)
    check_engine(config.engine, device)
    if config.decode == "gpu" and not use_gpu:
        raise ConfigError("decode gpu: this Ray has no GPU; leave it out, or wait for one with --gpu-wait-s")
    return use_gpu


def _report_estimate(run: Run, plan: ScoringPlan, summary: Summary) -> None:
    element = 2 if run.layout.embedding_dtype == "float16" else 4
    scores_bytes = 100 + sum(head.row_bytes for head in run.layout.heads)
    facts = estimate(plan.counts, run.live, run.layout.embedding_dim * element + scores_bytes)
    log_estimate(facts)
    summary.update({"dry_run": True, "to_score": plan.counts.to_score, **facts})


def _report_nothing_to_do(run: Run, plan: ScoringPlan, summary: Summary) -> None:
    """Log and summarise a night without a pipeline, a snapshot or a file."""
    summary.is_written = False
    run.monitor.up_to_date()
    number = run.live.number if run.live else None
    logger.info("nothing to do: snapshot %s is what the catalog and the model ask for", number)
    summary.update({**scored_summary(plan.counts, Counter()), "snapshot": number, "images_per_s": 0.0})


def _report_nothing_done(run: Run, summary: Summary) -> None:
    """Log and summarise a night whose time was up before anything was done."""
    number = run.live.number if run.live else None
    logger.info("no snapshot is published: nothing was done by %s, snapshot %s stays", run.deadline, number)
    discard_plan(run)
    summary["snapshot"] = number


def _score_and_publish(run: Run, plan: ScoringPlan, offer: Offer, use_gpu: bool, summary: Summary) -> None:
    if run.config.publishes:
        run.out.prove_exclusive()  # before anything is scored that could not be published
    began_s = time.monotonic()
    pipeline = _pipeline(run, offer, use_gpu, plan.counts.to_score)
    done = stage(run, plan, pipeline, _again(run, offer), summary, began_s=began_s)
    if run.config.stage_only:
        work_s = done.pipeline_s + done.tally.answer_s
        summary.update(staged_summary(run, done.plan.counts, done.tally.rows, work_s))
    elif run.config.publishes and is_as_before(done.plan.counts, done.pending):
        _report_nothing_done(run, summary)
    elif run.config.publishes:
        _publish(run, done, summary)


def _again(run: Run, offer: Offer) -> AnswerPipeline:
    from pix2score.score.again import AnswerPipeline

    return AnswerPipeline(
        model=run.config.model, origin=run.origin, layout=run.layout, out=run.out, offer=offer
    )


def part_rows(num_rows: int, *, use_gpu: bool) -> int:
    """Rows of each piece of a run of ``num_rows``: they grow with it, so that their receipts stay few."""
    least = PART_ROWS_GPU if use_gpu else PART_ROWS_CPU
    return max(least, min(MOST_PART_ROWS, -(-num_rows // MAX_PIECES)))


def _pipeline(run: Run, offer: Offer, use_gpu: bool, num_rows: int) -> ScorePipeline:
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
        gpu_decode=config.decode == "gpu",
        # Where an engine of fewer bits may not answer here, the run is as without it.
        engine="auto" if run.asks_narrow else config.engine,
        admission=run.admission,
        graph=None if use_gpu or config.engine == "torch" else graph_if_absent(config.model, run.card),
        compiled=config.compile,
        precision=config.precision,
        batch_size=config.batch_size or (BATCH_SIZE_GPU if use_gpu else BATCH_SIZE_CPU),
        part_rows=config.part_rows or part_rows(num_rows, use_gpu=use_gpu),
    )


def _publish(run: Run, done: Staged, summary: Summary) -> None:
    """Make the snapshot live; its number and drift go to ``summary``, drift also if it may not go live."""
    overhead_s = run.laps.total() - done.pipeline_s - done.tally.answer_s
    account = {
        "images": done.num_images,
        "seconds": round(done.pipeline_s, 3),
        "overhead_s": round(overhead_s, 3),
        **done.rates,
    }
    account |= scored_summary(done.plan.counts, done.tally.failed)
    gate = DriftGate(run.config.max_drift, functools.partial(show_held, run.out, run.id))
    publication = Publication(
        run.out, run.origin, run.layout, run.live, done.plan, [*done.receipts, *done.pending]
    )
    try:
        snapshot = publish_night(publication, _facts(run, account), executor(run), gate)
    finally:
        summary["drift"] = gate.drift
        run.monitor.drifted(gate.drift)
    run.monitor.published(snapshot)
    summary["snapshot"] = snapshot.number
    run.laps.lap("publish")


def _facts(run: Run, account: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of the run, beside what follows from its rows."""
    catalog = run.catalog
    return {
        "preprocess_id": run.card.preprocess.id,
        "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "catalog": catalog.pin(),
        "fingerprint_kind": catalog.fingerprint_kind,
        "places": list(run.images.source.places),
        "account": account,
        "config": as_plain(run.config),
        **run.engine_facts(),
        **({"note": run.config.note} if run.config.note else {}),
    }
