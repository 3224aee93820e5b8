"""repair: a model whose BatchNorm statistics are not finite, or do not fit, becomes a sound one.

Its weights stay the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import ray.data

from pix2score.cli.flags import as_plain
from pix2score.cli.summary import recorded
from pix2score.cluster.offer import Offer
from pix2score.cluster.session import session
from pix2score.cluster.shards import shard_rows
from pix2score.dataset.card import PreparedDataset, check_heads, open_dataset
from pix2score.errors import DataError
from pix2score.metrics.kinds import calibrations, results
from pix2score.metrics.protocol import Accumulator
from pix2score.model.card import CARD, ModelCard
from pix2score.model.folder import Weights, load_model, save_model
from pix2score.model.members import refuse_ensemble
from pix2score.storage.folder import Folder
from pix2score.summaries import RepairSummary
from pix2score.train.repair_config import RepairConfig

if TYPE_CHECKING:
    from pix2score.model.network import MultiHeadModel
    from pix2score.train.step.batch import Batch


logger = logging.getLogger(__name__)

BATCH = 64


def repair(config: RepairConfig) -> RepairSummary:
    """Write the repaired model to ``config.out``; return its version and validation metrics.

    Weights are as they were, BatchNorm statistics and temperatures recomputed.

    Raises ``DataError``: no model, no dataset, an empty split, heads that do not match, or a weight that is
    not finite (named): it is lost.
    """
    card, weights = load_model(config.model)
    dataset, out = open_dataset(config.data), Folder(config.out)
    if out.is_file(CARD):
        raise DataError(f"{out.uri} holds a model already; give another --out")
    refuse_ensemble(card.members, "repair its members, and make it again")
    check_heads(config.model, card.heads, dataset)
    with session() as offer, recorded(out, "summary.json", {"job": "repair", "out": out.uri}) as summary:
        summary.update(_repaired(config, card, weights, dataset, offer))
    return cast("RepairSummary", summary)


def _repaired(
    config: RepairConfig, card: ModelCard, weights: Weights, dataset: PreparedDataset, offer: Offer
) -> dict[str, Any]:
    from pix2score.model.network import MultiHeadModel  # imports torch
    from pix2score.model.networks import model_from_card

    model = model_from_card(card, weights)
    assert isinstance(model, MultiHeadModel), "ensembles are refused"
    broken = _broken_statistics(model, config.model)
    logger.info("%d of BatchNorm's statistics are not finite; all are recomputed", len(broken))
    num_images = _recompute_statistics(model, card, dataset, offer, config.num_images)
    metrics = _measured(model, card, dataset, offer)
    repair = {"of": card.version, "num_images": num_images, "broken": broken, "config": as_plain(config)}
    repaired = _save(config.out, model, card, metrics, repair)
    return {
        "model_version": repaired.version,
        "repaired_version": card.version,
        "num_broken": len(broken),
        "num_images": num_images,
        "val": results(metrics),
    }


def _broken_statistics(model: MultiHeadModel, place: str) -> list[str]:
    """Names of the statistics that are not finite. Raises ``DataError`` if another weight is not: it is
    lost."""
    from pix2score.model.batchnorm import is_running_statistic, non_finite

    broken = non_finite(model)
    lost = [name for name in broken if not is_running_statistic(name)]
    if lost:
        raise DataError(
            f"{place} cannot be repaired: {lost[0]} and {len(lost) - 1} more weights hold NaN or infinity"
        )
    return broken


def _recompute_statistics(
    model: MultiHeadModel, card: ModelCard, dataset: PreparedDataset, offer: Offer, num_images: int
) -> int:
    from pix2score.model.batchnorm import reestimate_norms

    train = shard_rows(dataset, "train", card.heads, card.preprocess, offer).limit(num_images)
    return reestimate_norms(model, (batch.pixels_BSSC for batch in _batches(train, card)), card.preprocess)


def _measured(
    model: MultiHeadModel, card: ModelCard, dataset: PreparedDataset, offer: Offer
) -> list[Accumulator]:
    """Metrics on the validation split."""
    import torch

    from pix2score.train.step.precision import Caster
    from pix2score.train.step.validate import measure

    val, cpu = shard_rows(dataset, "val", card.heads, card.preprocess, offer), torch.device("cpu")
    return measure(model, _batches(val, card), card.heads, card.preprocess, cpu, Caster("fp32", cpu))


def _save(
    out: str, model: MultiHeadModel, card: ModelCard, metrics: list[Accumulator], repair: dict[str, Any]
) -> ModelCard:
    from pix2score.model.graph import graph_or_none
    from pix2score.model.network import weights_of

    return save_model(
        out,
        weights_of(model),
        backbone=card.backbone,
        heads=card.heads,
        preprocess=card.preprocess,
        embedding_dim=card.embedding_dim,
        **calibrations(metrics),
        about={**card.about, "repair": repair},
        hidden=card.hidden,
        embedding_dtype=card.embedding_dtype,
        graph=graph_or_none,
    )


def _batches(rows: ray.data.Dataset, card: ModelCard) -> Iterator[Batch]:
    from pix2score.train.rows import batch_of

    for table in rows.iter_batches(batch_format="pyarrow", batch_size=BATCH):
        yield batch_of(table, card.heads, card.preprocess)
