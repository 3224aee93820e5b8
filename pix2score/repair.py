"""repair: a model whose BatchNorm statistics are not finite, or do not fit, becomes a sound one with the same weights."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray.data

from pix2score.account import recorded
from pix2score.artifact import CARD, ModelCard, load_model, save_model
from pix2score.cluster import Offer, session
from pix2score.command import as_plain
from pix2score.dataset import PreparedDataset, open_dataset
from pix2score.errors import ConfigError, DataError
from pix2score.evaluate import check_heads
from pix2score.fetch import shard_rows
from pix2score.storage import Folder

if TYPE_CHECKING:
    from pix2score.batch import Batch

logger = logging.getLogger(__name__)

BATCH = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class RepairConfig:
    """Settings of ``jobs.repair``."""

    model: str
    """Model folder to repair; it stays as it is."""
    data: str
    """Prepared dataset, best the one that the model learnt from."""
    out: str
    """Where the repaired model goes."""
    num_images: int = 4096
    """Training pictures from which the statistics are made."""

    def __post_init__(self) -> None:
        if self.num_images < 2:
            raise ConfigError(f"num_images {self.num_images}: a variance needs at least 2")


def repair(config: RepairConfig) -> dict[str, Any]:
    """The repaired model stands at ``config.out``: weights as they were, BatchNorm statistics and temperatures made anew.

    Raises ``DataError``: no model, no dataset, an empty split, heads that do not match, or a weight that is not finite (named): it is lost.
    """
    card, weights = load_model(config.model)
    dataset, out = open_dataset(config.data), Folder(config.out)
    if out.is_file(CARD):
        raise DataError(f"{out.uri} holds a model already; give another --out")
    check_heads(config.model, card, dataset)
    with session() as offer, recorded(out, "summary.json", {"job": "repair", "out": out.uri}) as summary:
        summary.update(_repaired(config, card, weights, dataset, offer))
    return summary


def _repaired(config: RepairConfig, card: ModelCard, weights: Any, dataset: PreparedDataset, offer: Offer) -> dict[str, Any]:
    import torch

    from pix2score.measure import measure
    from pix2score.model import model_from_card, weights_of
    from pix2score.norms import is_running_statistic, non_finite, reestimate_norms
    from pix2score.precision import Caster

    model = model_from_card(card, weights)
    broken = non_finite(model)
    lost = [name for name in broken if not is_running_statistic(name)]
    if lost:
        raise DataError(f"{config.model} cannot be repaired: {lost[0]} and {len(lost) - 1} more weights hold NaN or infinity")
    logger.info("%d of BatchNorm's statistics are not finite; all are made anew", len(broken))
    train = shard_rows(dataset, "train", card.heads, card.preprocess, offer).limit(config.num_images)
    num_images = reestimate_norms(model, (batch.pixels_BSSC for batch in _batches(train, card)), card.preprocess)
    val, cpu = shard_rows(dataset, "val", card.heads, card.preprocess, offer), torch.device("cpu")
    metrics = measure(model, _batches(val, card), card.heads, card.preprocess, cpu, Caster("fp32", cpu))
    repaired = save_model(
        config.out,
        weights_of(model),
        backbone=card.backbone,
        heads=card.heads,
        preprocess=card.preprocess,
        embedding_dim=card.embedding_dim,
        temperatures={m.head.name: m.best_temperature() for m in metrics},
        about={
            **card.about,
            "repair": {"of": card.version, "num_images": num_images, "broken": broken, "config": as_plain(config)},
        },
    )
    facts = {"model_version": repaired.version, "repaired_version": card.version, "num_broken": len(broken)}
    return {**facts, "num_images": num_images, "val": {m.head.name: m.result() for m in metrics}}


def _batches(rows: ray.data.Dataset, card: ModelCard) -> Iterator[Batch]:
    from pix2score.train_rows import batch_of

    for table in rows.iter_batches(batch_format="pyarrow", batch_size=BATCH):
        yield batch_of(table, card.heads, card.preprocess)
