"""score: every illustration of a catalog gets its predictions and embedding, or a failure, in a new snapshot.

One streaming Ray Data execution: plan parts -> fetch and decode on CPUs -> predictor actors -> staged pieces.
What is scored is the matter of ``nightly.plan``, how it becomes live of ``nightly.publish``, what is reported
about it of ``account``.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from pix2score.catalog.contents import log_failures
from pix2score.cli.flags import as_plain
from pix2score.cli.summary import StageTimer, Summary, recorded
from pix2score.cluster.local import MIN_LOCAL_CPUS, BackgroundCall, has_local_gpu, is_local
from pix2score.cluster.offer import Offer
from pix2score.cluster.rounds import Rounds
from pix2score.cluster.session import session
from pix2score.errors import ConfigError, StorageError
from pix2score.model.predictor import check_engine, check_precision, graph_if_absent
from pix2score.nightly.gate import DriftGate
from pix2score.nightly.plan import ScoringPlan
from pix2score.nightly.publish import Publication, publish_night
from pix2score.score.account import (
    Tally,
    answer_summary,
    estimate,
    log_estimate,
    log_plan,
    plan_summary,
    rate_summary,
    scored_summary,
)
from pix2score.score.config import ScoreConfig
from pix2score.score.held import show_held
from pix2score.score.leftover import discard_plan, is_as_before, leave_rest, staged_summary
from pix2score.score.run import Run, executor, first_plan, is_small, open_run, plan_of
from pix2score.snapshots.leases import Lease
from pix2score.snapshots.pieces import Receipt
from pix2score.snapshots.snapshot import Snapshot
from pix2score.storage.parts import total_rows
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
        use_gpu = offer.wants_gpu(config.device)
        device = "cuda" if use_gpu else "cpu"
        check_precision(config.precision, device)
        check_engine(config.engine, device)
        if config.decode == "gpu" and not use_gpu:
            raise ConfigError(
                "decode gpu: this Ray has no GPU; leave it out, or wait for one with --gpu-wait-s"
            )
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
    started = time.monotonic()
    num_first = plan.counts.planned - plan.counts.retry
    tally = Tally(
        run.config.max_failed,
        num_first,
        failed_again=plan.resumed_failed_again,
        failed=Counter(plan.resumed_failed),
    )
    pipeline = _pipeline(run, offer, use_gpu, plan.counts.to_score)
    try:
        plan, receipts = _execute(run, plan, pipeline, _again(run, offer), tally)
        pending = leave_rest(run, plan, receipts, tally)
        if run.config.publishes and run.config.max_failed < 1:  # 1 says that any share will do
            tally.check_end(plan.counts.keys - plan.counts.pending)
    finally:
        wall_s = time.monotonic() - started - tally.answer_s
        log_failures(tally.failed, run.catalog, run.config.image_root)
        summary.update({**scored_summary(plan.counts, tally.failed), "repeated": tally.repeats.summary()})
        tally.repeats.log(logger)
        num_images = tally.rows - tally.answered
        rates = rate_summary(tally.measured, pipeline.slots(total_rows(plan.parts)), num_images, wall_s)
        rates |= answer_summary(tally)
        summary.update(rates)
    if run.config.stage_only:
        summary.update(staged_summary(run, plan.counts, tally.rows, wall_s + tally.answer_s))
    elif run.config.publishes and is_as_before(plan.counts, pending):
        _report_nothing_done(run, summary)
    elif run.config.publishes:
        overhead_s = run.laps.total() - wall_s - tally.answer_s
        account = {
            "images": num_images,
            "seconds": round(wall_s, 3),
            "overhead_s": round(overhead_s, 3),
            **rates,
        }
        account |= scored_summary(plan.counts, tally.failed)
        gate = DriftGate(run.config.max_drift, functools.partial(show_held, run.out, run.id))
        try:
            snapshot = _publish(run, plan, [*receipts, *pending], account, gate)
        finally:
            summary["drift"] = gate.drift
            run.monitor.drifted(gate.drift)
        run.monitor.published(snapshot)
        summary["snapshot"] = snapshot.number
        run.laps.lap("publish")


def _execute(
    run: Run, plan: ScoringPlan, pipeline: ScorePipeline, again: AnswerPipeline, tally: Tally
) -> tuple[ScoringPlan, list[Receipt]]:
    """Stage every planned row, or as many as there is time for.

    What a lost node took with it is planned again: resuming, within the run.
    """
    rounds, receipts = Rounds(), list[Receipt]()
    for number in rounds:
        if number > 1:
            plan = plan_of(run, f"plan-{number}")
            tally.begin_again(plan.resumed_failed, plan.resumed_failed_again)
        run.monitor.planned(plan.counts)
        receipts = _answers(run, plan, again, tally, f"answers-{number}") if plan.stored else []
        work = plan.parts and not run.is_over()
        for receipt in pipeline.receipts(plan.parts, f"piece-{number}", run.is_over) if work else ():
            run.laps.lap("first_piece" if tally.rows == tally.answered else "score")
            receipts.append(receipt)
            run.monitor.staged(receipt)
            tally.add(receipt)
        rounds.ended(plan.counts.to_score, sum(receipt.rows for receipt in receipts))
        if run.config.limit is not None or run.is_over():  # another limited plan would be of other images
            break
    if rounds.missing and not run.is_over():
        raise StorageError(
            f"run {run.id}: {rounds.missing} images were lost with parts of the cluster again and again; "
            "staged work is kept"
        )
    return plan, receipts


def _answers(run: Run, plan: ScoringPlan, again: AnswerPipeline, tally: Tally, prefix: str) -> list[Receipt]:
    """Stage the rows that stored embeddings answer."""
    started, receipts = time.monotonic(), list[Receipt]()
    for receipt in again.receipts(plan.stored, prefix, run.is_over) if not run.is_over() else ():
        receipts.append(receipt)
        run.monitor.staged(receipt)
        tally.add(receipt)
        tally.answered += receipt.rows
    tally.answer_s += time.monotonic() - started
    run.laps.lap("answer")
    return receipts


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


def _publish(
    run: Run, plan: ScoringPlan, receipts: list[Receipt], account: dict[str, Any], gate: DriftGate
) -> Snapshot:
    catalog = run.catalog
    facts = {
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
    return publish_night(
        Publication(run.out, run.origin, run.layout, run.live, plan, receipts), facts, executor(run), gate
    )
