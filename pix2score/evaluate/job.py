"""evaluate: how good a model is on one split of a prepared dataset, per head, beside references that know
less; and against another model.

Streams the split through Ray Data as scoring does. What one head's numbers are: ``verdict`` and ``quality``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from pix2score.catalog.keys import Key
from pix2score.catalog.originals import original_images
from pix2score.cli.flags import as_plain
from pix2score.cli.summary import recorded
from pix2score.cluster.offer import Offer
from pix2score.cluster.session import session
from pix2score.cluster.source import ParquetParts
from pix2score.cluster.task_sizes import MAX_TASK_ROWS, SHARD_ROW_BYTES, block_rows
from pix2score.dataset.card import PreparedDataset, check_heads, open_dataset
from pix2score.errors import ConfigError, NotBetterError
from pix2score.evaluate.config import EvaluateConfig
from pix2score.evaluate.gather import Evaluation
from pix2score.evaluate.stages import AnswerRows, Sample, decode_for_evaluation, draw_of, ridge_rows
from pix2score.heads.spec import HeadSpec
from pix2score.metrics.accumulate import main_metric
from pix2score.metrics.ridge import PENALTY, Floats, HeadSums
from pix2score.metrics.verdict import is_better
from pix2score.model.folder import ModelCard, load_model
from pix2score.report.evaluation import evaluation_page
from pix2score.report.page import check_packages
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches

logger = logging.getLogger(__name__)
NUM_SHOWN = 2_000
"""Images that the report may choose its thumbnails from: a random sample of the split, some 10 MB."""
NUM_ALTERED = 256
"""Images whose altered copies are answered too; their mean change is then known to a few percent of
itself."""

NUM_EXPLAINED = 12
"""Images of which the report shows where each head looks, about."""


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """metrics.json and report.html stand at ``config.out``; the metrics of each head come back.

    Raises ``DataError``: no model, no dataset, an empty split, or heads that do not match (they are named).
    Raises ``NotBetterError`` after everything is written.
    """
    places = [place for place in (config.model, config.compare) if place]
    cards, dataset, out = (
        [load_model(place)[0] for place in places],
        open_dataset(config.data),
        Folder(config.out),
    )
    dataset.parts(config.split)
    for place, card in zip(places, cards, strict=True):
        check_heads(place, card.heads, dataset)
    with (
        session(gpu_wait_s=config.gpu_wait_s) as offer,
        recorded(out, "summary.json", {"job": "evaluate", "split": config.split}) as summary,
    ):
        evaluation = _measure(config, cards, dataset, offer)
        summary.update(
            {"model_version": cards[0].version, "dataset_id": dataset.id, "metrics": evaluation.metrics()}
        )
        details = evaluation.details()
        if config.compare:
            summary |= {"compared_with": cards[1].version, "comparison": evaluation.comparison()}
            summary["is_better"] = is_better(summary["comparison"])
        summary["config"] = as_plain(config)
        _publish_page(out, summary, details, evaluation)
        out.publish(
            "metrics.json", json.dumps({**summary, "details": details}, indent=1).encode(), replace=True
        )
        if config.require_better and not summary["is_better"]:
            raise NotBetterError(
                f"{config.model} is not better than {config.compare}: {_verdicts(summary['comparison'])}"
            )
    return summary


def _publish_page(
    out: Folder, summary: Mapping[str, Any], details: Mapping[str, Any], evaluation: Evaluation
) -> None:
    try:
        check_packages()
    except ConfigError as exc:  # the numbers are what was asked for; the page is for looking
        logger.warning("no report.html: %s", exc)
        return
    out.publish(
        "report.html", evaluation_page(summary, details, evaluation.heads, evaluation.sampled()), replace=True
    )


def _verdicts(comparison: Mapping[str, Mapping[str, Any]]) -> str:
    return ", ".join(f"{name} {head['verdict']}" for name, head in comparison.items())


def _measure(
    config: EvaluateConfig, cards: Sequence[ModelCard], dataset: PreparedDataset, offer: Offer
) -> Evaluation:
    models = [place for place in (config.model, config.compare) if place]
    heads = [
        head for head in cards[0].heads if all(head.name in {h.name for h in card.heads} for card in cards)
    ]
    sizes = list(
        dict.fromkeys(card.preprocess for card in cards)
    )  # two models of one preprocessing share their pixels
    num_rows, use_gpu = dataset.num_rows(config.split), offer.wants_gpu(config.device)
    ridges = _fit_ridges(dataset, heads, config.ridge_rows, offer) if config.ridge_rows else {}
    rows = (
        _shards(dataset, config.split)
        .map_batches(
            decode_for_evaluation,
            fn_kwargs={
                "heads": tuple(cards[0].heads),
                "preprocesses": sizes,
                "ridges": ridges,
                "sample": _sample(config, dataset, num_rows),
            },
            batch_format="pyarrow",
            batch_size=min(MAX_TASK_ROWS, *(block_rows(size) // len(sizes) for size in sizes)),
            **offer.decode_placement(),
        )
        .map_batches(
            AnswerRows,
            fn_constructor_args=(models, [sizes.index(card.preprocess) for card in cards]),
            fn_constructor_kwargs={
                "explained": NUM_EXPLAINED / num_rows,
                "batch_size": 256 if use_gpu else 32,
                **offer.predictor_settings(use_gpu=use_gpu),
            },
            batch_format="pyarrow",
            batch_size=256,
            compute=offer.predictor_pool(use_gpu=use_gpu, num_batches=-(-num_rows // 256)),
            num_cpus=0.5,  # unlike the tasks before it, so that Ray does not fuse them into one serial stage
            num_gpus=1 if use_gpu else 0,
        )
    )
    evaluation = Evaluation(heads, [card.temperatures for card in cards], with_ridge=bool(ridges))
    for table in rows.iter_batches(batch_format="pyarrow", batch_size=1024):
        evaluation.add(table)
    return evaluation


def _shards(dataset: PreparedDataset, split: str) -> ray.data.Dataset:
    return ray.data.read_datasource(
        ParquetParts(dataset.folder, dataset.parts(split), row_bytes=SHARD_ROW_BYTES)
    )


def _fit_ridges(
    dataset: PreparedDataset, heads: Sequence[HeadSpec], num_rows: int, offer: Offer
) -> dict[str, Floats]:
    """Head -> weights [1, 1 + D] of the regression from simple features to its bin; ``num_rows`` train
    images, which are mixed."""
    if not dataset.num_rows("train"):
        return {}
    stage = {"batch_format": "pyarrow", "batch_size": MAX_TASK_ROWS, **offer.decode_placement()}
    rows = (
        _shards(dataset, "train")
        .limit(num_rows)
        .map_batches(ridge_rows, fn_kwargs={"heads": tuple(heads)}, **stage)
    )
    sums: dict[str, HeadSums] = {}
    for table in rows.iter_batches(batch_format="pyarrow", batch_size=1024):
        small = (
            table.column("features")
            .combine_chunks()
            .flatten()
            .to_numpy()
            .reshape(table.num_rows, -1)
            .astype(np.float64)
        )
        for head in heads:
            truth = table.column(f"{head.name}_bin").to_numpy()
            total = sums.setdefault(head.name, HeadSums.zeros(small.shape[1]))
            total.add(small[truth >= 0], truth[truth >= 0].astype(np.float64))
    return {name: total.solve([PENALTY]) for name, total in sums.items() if total.num}


def _sample(config: EvaluateConfig, dataset: PreparedDataset, num_rows: int) -> Sample:
    altered = NUM_ALTERED / num_rows
    card = dataset.card
    found = original_images(
        card["catalog"]["uri"], card["config"], _drawn_keys(dataset, config.split, altered)
    )
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


def table_text(heads: Sequence[HeadSpec], metrics: dict[str, dict[str, Any]]) -> str:
    """Per head its main number, and NLL, error in bins and accuracy beside what the best constant reaches;
    for a terminal."""
    lines = [
        f"{'head':<12}{'images':>8}{'main':>16}{'NLL (prior)':>18}{'MAE bins (median)':>20}"
        f"{'accuracy (majority)':>22}"
    ]
    for head in heads:
        m = metrics[head.name]
        if not m["num_labelled"]:
            lines.append(f"{head.name:<12}{0:>8}{'no label':>16}")
            continue
        main = "-" if m[main_metric(head)] is None else f"{m[main_metric(head)]:.3f}"
        lines.append(
            f"{head.name:<12}{m['num_labelled']:>8}{main_metric(head) + ' ' + main:>16}"
            f"{m['nll']:>10.3f} ({m['prior_nll']:.3f}){m['mae_bins']:>11.2f} ({m['prior_mae_bins']:.2f})"
            f"{m['accuracy']:>14.3f} ({m['majority_accuracy']:.3f})"
        )
    return "\n".join(lines)
