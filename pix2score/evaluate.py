"""evaluate: how good a model is on one split of a prepared dataset, per head, beside constants that know only the train split."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pix2score.account import recorded
from pix2score.artifact import ModelCard, load_model
from pix2score.cluster import Device, Offer, session
from pix2score.command import as_plain
from pix2score.dataset import PreparedDataset, open_dataset
from pix2score.errors import DataError
from pix2score.fetch import pixels_of, shard_rows
from pix2score.heads import HeadSpec
from pix2score.metrics import HeadMetrics, main_metric, results
from pix2score.storage import Folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Settings of ``jobs.evaluate``."""

    model: str
    """Model folder that jobs.train made."""
    data: str
    """Prepared dataset."""
    out: str
    """Where metrics.json goes."""
    split: str = "test"
    """train, val or test."""
    device: Device = "auto"
    """auto (GPU if the cluster has one), cpu or gpu."""
    gpu_wait_s: float = 0
    """Seconds to wait for the cluster's autoscaler to bring a GPU, if there is none."""


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """metrics.json stands at ``config.out``; the metrics of each head come back.

    Raises ``DataError``: no model, no dataset, an empty split, or heads that do not match (they are named).
    """
    (card, _), dataset, out = load_model(config.model), open_dataset(config.data), Folder(config.out)
    dataset.parts(config.split)
    check_heads(card, dataset)
    with (
        session(gpu_wait_s=config.gpu_wait_s) as offer,
        recorded(out, "summary.json", {"job": "evaluate", "split": config.split}) as summary,
    ):
        metrics = _measure(config, card, dataset, offer)
        summary.update(
            {"model_version": card.version, "dataset_id": dataset.id, "metrics": results(metrics), "config": as_plain(config)}
        )
        out.publish("metrics.json", json.dumps(summary, indent=1).encode(), replace=True)
    return summary


def check_heads(card: ModelCard, dataset: PreparedDataset) -> None:
    """The dataset's bins must be the model's bins."""
    theirs = {head.name: head for head in dataset.heads}
    problems = [f"{h.name} is not in the dataset" for h in card.heads if h.name not in theirs]
    problems += [
        f"{h.name} has edges {h.bin_edges} in the model, {theirs[h.name].bin_edges} in the dataset"
        for h in card.heads
        if h.name in theirs and h.bin_edges != theirs[h.name].bin_edges
    ]
    if problems:
        raise DataError(f"model and dataset do not match: {'; '.join(problems)}")


def _measure(config: EvaluateConfig, card: ModelCard, dataset: PreparedDataset, offer: Offer) -> list[HeadMetrics]:
    use_gpu = offer.wants_gpu(config.device)
    rows = shard_rows(dataset, config.split, card.heads, card.preprocess, offer).map_batches(
        PredictShard,
        fn_constructor_args=(config.model,),
        fn_constructor_kwargs={"batch_size": 256 if use_gpu else 32, **offer.predictor_settings(use_gpu=use_gpu)},
        batch_format="pyarrow",
        batch_size=256,
        compute=offer.predictor_pool(use_gpu=use_gpu, num_batches=-(-dataset.num_rows(config.split) // 256)),
        num_cpus=0.5,  # unlike the tasks before it, so that Ray does not fuse them into one serial stage
        num_gpus=1 if use_gpu else 0,
    )
    metrics = [HeadMetrics(head) for head in card.heads]
    for table in rows.iter_batches(batch_format="pyarrow", batch_size=1024):
        for metric in metrics:
            _add(metric, table)
    return metrics


def _add(metric: HeadMetrics, table: pa.Table) -> None:
    head = metric.head
    log_probs = table.column(f"{head.name}_log_probs").combine_chunks().flatten().to_numpy().reshape(-1, head.num_bins)
    metric.add(log_probs, table.column(f"{head.name}_bin").to_numpy(), table.column(f"{head.name}_label").to_numpy())


class PredictShard:
    """Ray Data stage: decoded shard rows in; bin, label and log-probabilities of each head out."""

    def __init__(self, model: str, **settings: Any) -> None:
        from pix2score.predictor import load_predictor  # imports torch, which only actors need

        self._predictor = load_predictor(model, **settings)

    def __call__(self, rows: pa.Table) -> pa.Table:
        card = self._predictor.card
        prediction = self._predictor.predict(pixels_of(rows.column("pixels"), card.preprocess))
        columns: dict[str, Any] = {}
        for head in card.heads:
            # Log-probabilities are logits whose temperature is 1: the metrics then see exactly what scoring answers.
            log_probs = np.log(np.maximum(prediction.heads[head.name].probs, np.finfo(np.float32).tiny))
            columns[f"{head.name}_log_probs"] = pa.FixedSizeListArray.from_arrays(pa.array(log_probs.ravel()), head.num_bins)
            columns |= {name: rows.column(name) for name in (f"{head.name}_bin", f"{head.name}_label")}
        return pa.table(columns)


def table_text(heads: Sequence[HeadSpec], metrics: dict[str, dict[str, Any]]) -> str:
    """Per head its main number, and NLL, error in bins and accuracy beside what the best constant reaches; for a terminal."""
    lines = [f"{'head':<12}{'images':>8}{'main':>16}{'NLL (prior)':>18}{'MAE bins (median)':>20}{'accuracy (majority)':>22}"]
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
