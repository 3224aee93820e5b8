"""evaluate: how good a model is on one split of a prepared dataset, and against another model.

Per head, beside references that know less. Streams the split through Ray Data as scoring does
(``evaluate.pipeline``). Each number is defined in ``metrics.formulas``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import pyarrow as pa

from pix2score.catalog.keys import Key
from pix2score.catalog.originals import original_images
from pix2score.cli.flags import as_plain
from pix2score.cli.summary import recorded
from pix2score.cluster.offer import Offer
from pix2score.cluster.progress import Meter
from pix2score.cluster.session import session
from pix2score.dataset.card import PreparedDataset, check_heads, open_dataset
from pix2score.errors import ConfigError, ImageFailure, NotBetterError
from pix2score.evaluate.baseline import fit_ridges
from pix2score.evaluate.config import EvaluateConfig
from pix2score.evaluate.gather import Evaluation
from pix2score.evaluate.perturbed import affordable_rows, gathered, measured
from pix2score.evaluate.pipeline import EvaluationPipeline
from pix2score.evaluate.sample import Sample, draw_of
from pix2score.evaluate.strata import Strata, check_columns, strata_of
from pix2score.evaluate.texts import by_text, correlations_text, perturbed_text
from pix2score.heads.spec import HeadSpec
from pix2score.metrics.comparison import HeadComparison
from pix2score.metrics.findings import ADVERSARIAL_S, Findings
from pix2score.metrics.perturbed import Perturbed
from pix2score.model.admission import Admission, admitted, engine_facts, is_narrow
from pix2score.model.card import ModelCard
from pix2score.model.folder import load_model
from pix2score.model.predictor import check_engine
from pix2score.report.evaluation import evaluation_page
from pix2score.report.page import check_packages
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches
from pix2score.summaries import EvaluateSummary

logger = logging.getLogger(__name__)
NUM_SHOWN = 2_000
"""Images that the report may choose its thumbnails from: a random sample of the split, some 10 MB."""
NUM_ADVERSARIAL, NUM_ADVERSARIAL_CPU = 64, 16
"""Images that are led to other answers unless told otherwise, and so many without a GPU."""
NUM_ALTERED = 256
"""Images whose altered copies are answered too; their mean change is then known to a few percent of
itself."""


def evaluate(config: EvaluateConfig) -> EvaluateSummary:
    """Write metrics.json and report.html to ``config.out``; return the metrics of each head.

    Raises ``DataError``: no model, no dataset, an empty split, heads that do not match (they are named), or a
    column of ``by`` that the catalog lacks.
    Raises ``NotBetterError`` after everything is written.
    """
    places = _models(config)
    models, dataset = [load_model(place) for place in places], open_dataset(config.data)
    cards = [card for card, _ in models]
    out = Folder(config.out)
    dataset.parts(config.split)
    for place, card in zip(places, cards, strict=True):
        check_heads(place, card.heads, dataset)
    catalog = check_columns(dataset, config.by)
    admission = admitted(config.model, *models[0], config.engine) if is_narrow(config.engine) else None
    with (
        session(gpu_wait_s=config.gpu_wait_s) as offer,
        recorded(out, "summary.json", {"job": "evaluate", "split": config.split}) as summary,
    ):
        strata = strata_of(dataset, config.split, config.by, catalog)
        pipeline = _pipeline(config, cards, dataset, offer, admission)
        evaluation = _measure(config, pipeline, strata)
        findings = _findings(config, pipeline, evaluation)
        _tell(findings, evaluation.heads)
        summary.update(findings.to_dict(), config=as_plain(config), **engine_facts(config.engine, admission))
        _publish(out, summary, findings, evaluation)
        if config.require_better and not findings.is_better:
            verdicts = _verdicts(findings.comparison)
            raise NotBetterError(f"{config.model} is not better than {config.compare}: {verdicts}")
    return cast("EvaluateSummary", summary)


def _models(config: EvaluateConfig) -> list[str]:
    return [place for place in (config.model, config.compare) if place]


def _findings(config: EvaluateConfig, pipeline: EvaluationPipeline, evaluation: Evaluation) -> Findings:
    cards = pipeline.cards
    return Findings(
        model_version=cards[0].version,
        dataset_id=pipeline.dataset.id,
        split=config.split,
        metrics=evaluation.metrics(),
        details=evaluation.details(),
        compared_with=cards[1].version if config.compare else "",
        comparison=evaluation.comparison() if config.compare else {},
        by=evaluation.by(),
        perturbed=_perturbed(config, pipeline, evaluation.heads) if config.perturb else None,
        correlations=evaluation.correlations(),
    )


def _perturbed(config: EvaluateConfig, pipeline: EvaluationPipeline, heads: Sequence[HeadSpec]) -> Perturbed:
    """A second pass, over few rows: their many copies would not fit beside all rows of the first."""
    altered, num_all = config.perturbations, pipeline.dataset.num_rows(config.split)
    num_rows = affordable_rows(min(config.perturb_rows, num_all), heads, len(altered))
    logger.info("--perturb: about %d rows, each as it is and altered in %d ways", num_rows, len(altered))
    answered = pipeline.perturbed_rows(altered, num_rows)
    meter = Meter("perturbed copies answered", num_rows * (1 + len(altered)), logger)
    rows = gathered(_metered(answered.iter_batches(batch_format="pyarrow", batch_size=1024), meter), heads)
    return measured(rows, pipeline.cards[0], heads, altered)


def _metered(tables: Iterable[pa.Table], meter: Meter) -> Iterator[pa.Table]:
    """The same tables; rate and time left are logged while they go by."""
    for table in tables:
        meter.add(table.num_rows)
        yield table


def _tell(findings: Findings, heads: Sequence[HeadSpec]) -> None:
    for column in findings.by:
        logger.info("by %s: %s\n%s", column.column, column.note, by_text(heads, findings.metrics, column))
    if findings.perturbed:
        logger.info("perturbed:\n%s", perturbed_text(heads, findings.perturbed))
    if findings.correlations:
        logger.info("how scores of heads go together:\n%s", correlations_text(findings.correlations))


def _publish(out: Folder, summary: Mapping[str, Any], findings: Findings, evaluation: Evaluation) -> None:
    _publish_page(out, findings, evaluation)
    written = json.dumps({**summary, **findings.more()}, indent=1)
    out.publish("metrics.json", written.encode(), replace=True)


def _publish_page(out: Folder, findings: Findings, evaluation: Evaluation) -> None:
    try:
        check_packages()
    except ConfigError as exc:  # the numbers are what was asked for; the page is for looking
        logger.warning("no report.html: %s", exc)
        return
    page = evaluation_page(findings, evaluation.heads, evaluation.sampled())
    out.publish("report.html", page, replace=True)


def _verdicts(comparison: Mapping[str, HeadComparison]) -> str:
    return ", ".join(f"{name} {head.verdict}" for name, head in comparison.items())


def _pipeline(
    config: EvaluateConfig,
    cards: Sequence[ModelCard],
    dataset: PreparedDataset,
    offer: Offer,
    admission: Admission | None,
) -> EvaluationPipeline:
    use_gpu = offer.wants_gpu(config.device)
    check_engine(config.engine, "cuda" if use_gpu else "cpu")
    num_adversarial = config.adversarial
    if num_adversarial is None:
        num_adversarial = NUM_ADVERSARIAL if use_gpu else NUM_ADVERSARIAL_CPU
    return EvaluationPipeline(
        models=_models(config),
        cards=cards,
        dataset=dataset,
        split=config.split,
        offer=offer,
        use_gpu=use_gpu,
        engine="auto" if is_narrow(config.engine) else config.engine,
        admission=admission,
        num_adversarial=num_adversarial,
    )


def _measure(config: EvaluateConfig, pipeline: EvaluationPipeline, strata: Sequence[Strata]) -> Evaluation:
    heads, dataset = _common_heads(pipeline.cards), pipeline.dataset
    ridges = fit_ridges(dataset, heads, config.ridge_rows, pipeline.offer)
    rows = pipeline.rows(ridges, _sample(config, dataset))
    evaluation = Evaluation(pipeline.cards[0], heads, strata=strata)
    if pipeline.num_adversarial:
        logger.info(
            "about %d images are led to other answers, for at most %.0f s of each worker; --adversarial 0 "
            "leaves that out",
            pipeline.num_adversarial,
            ADVERSARIAL_S,
        )
    for table in rows.iter_batches(batch_format="pyarrow", batch_size=1024):
        evaluation.add(table)
    return evaluation


def _common_heads(cards: Sequence[ModelCard]) -> list[HeadSpec]:
    """Heads of the first model that the others have too."""
    names = set.intersection(*({head.name for head in card.heads} for card in cards))
    return [head for head in cards[0].heads if head.name in names]


def _sample(config: EvaluateConfig, dataset: PreparedDataset) -> Sample:
    num_rows, card = dataset.num_rows(config.split), dataset.card
    altered = NUM_ALTERED / num_rows
    keys = _drawn_keys(dataset, config.split, altered)
    found: dict[Key, bytes | ImageFailure] = {}
    for place in dataset.catalogs:
        found |= original_images(place, card["config"], [key for key in keys if key not in found])
    originals = {key: image for key, image in found.items() if isinstance(image, bytes)}
    return Sample(shown=NUM_SHOWN / num_rows, altered=altered, originals=originals)


def _drawn_keys(dataset: PreparedDataset, split: str, share: float) -> list[Key]:
    paths = [part.path for part in dataset.parts(split)]
    return [
        key
        for batch in parquet_batches(dataset.folder, paths, ["illust_id", "page"])
        for key in _drawn(batch, share)
    ]


def _drawn(batch: pa.RecordBatch, share: float) -> list[Key]:
    keys = zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)
    return [key for key in keys if draw_of(key) < share]
