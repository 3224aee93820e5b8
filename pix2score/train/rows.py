"""What a training run reads: both splits as decoded rows, and those as batches of tensors."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator, Sequence

import pyarrow as pa
import ray
import ray.train
import torch
from ray.data import DataIterator

from pix2score.catalog.rows import WEIGHT
from pix2score.cluster.offer import Offer
from pix2score.cluster.shards import shard_rows
from pix2score.dataset.card import PreparedDataset
from pix2score.heads.compared import OTHERS, num_others
from pix2score.heads.spec import HeadSpec
from pix2score.images.columns import pixels_of
from pix2score.images.preprocess import Preprocess
from pix2score.train.resample import Resampling, repeated, shuffled_batches
from pix2score.train.settings import WorkerSettings
from pix2score.train.step.batch import Batch, Others, is_labelled

logger = logging.getLogger(__name__)
KEPT_SHARE = 0.25
"""Of Ray's object store that decoded pixels may fill, by default; what workers read next and their own
batches need the rest."""


def training_rows(
    dataset: PreparedDataset,
    settings: WorkerSettings,
    offer: Offer,
    unlabelled: PreparedDataset | None = None,
) -> dict[str, ray.data.Dataset]:
    """Splits train and val; the pictures of ``unlabelled`` are mixed into train.

    Decoded once for all epochs if their pixels fit in ``settings.cache_mib``, else again in every epoch.
    """
    # An even split over workers drops the remainder: padding rows make it lose none, however many workers
    # there are.
    pad_rows = -dataset.num_rows("val") % math.lcm(
        *range(max(1, settings.num_workers), max(1, settings.max_workers) + 1)
    )
    shards = functools.partial(shard_rows, dataset, heads=dataset.heads, preprocess=settings.preprocess)
    rows = {
        "train": shards("train", offer=offer, mixed_in=unlabelled, keeps_key=settings.resampling is not None),
        "val": shards("val", offer=offer, pad_rows=pad_rows),
    }
    num_images = dataset.num_images("train") + dataset.num_images("val") + pad_rows
    num_images += unlabelled.num_rows("train") if unlabelled else 0
    size_mib = num_images * settings.preprocess.size**2 * 3 / 2**20
    if size_mib > _most_mib(settings):
        return rows
    logger.info(
        "decoding %d images once for all epochs: %.0f MiB of pixels, kept in Ray's object store",
        num_images,
        size_mib,
    )
    return {split: _kept(dataset) for split, dataset in rows.items()}


def _most_mib(settings: WorkerSettings) -> float:
    if settings.cache_mib is not None:
        return settings.cache_mib
    return KEPT_SHARE * float(ray.cluster_resources().get("object_store_memory", 0)) / 2**20


def _kept(rows: ray.data.Dataset) -> ray.data.Dataset:
    rows.context.execution_options.preserve_order = True  # same seed, same order
    return rows.materialize()


def worker_batches(
    settings: WorkerSettings, split: str, *, batch_rows: int, epoch: int = 0, once: bool = False
) -> Iterator[Batch]:
    """This worker's batches of a split.

    Those of train come in an order that depends on seed, epoch and the number of workers alone, and some of
    their rows several times where the training resamples: not ``once`` each.
    """
    shard: DataIterator = ray.train.get_dataset_shard(split)
    if split == "train" and settings.resampling and not once:
        for table in _resampled(shard, settings, settings.resampling, batch_rows, epoch):
            yield batch_of(table, settings.heads, settings.preprocess)
        return
    is_train = split == "train"
    for table in shard.iter_batches(
        batch_format="pyarrow",
        batch_size=batch_rows if is_train else settings.batch_size,
        drop_last=is_train and not settings.solves_outputs,
        prefetch_batches=2,
        local_shuffle_buffer_size=_shuffle_rows(settings, batch_rows) if is_train else None,
        local_shuffle_seed=settings.seed * 1_000_003 + epoch if is_train else None,
    ):
        yield batch_of(table, settings.heads, settings.preprocess)


def labelled(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same without the rows that have no label."""
    for batch in batches:
        rows = torch.stack([is_labelled(target) for target in batch.targets.values()]).any(0)
        if rows.any():
            yield batch if rows.all() else batch.rows(rows)


def _resampled(
    shard: DataIterator, settings: WorkerSettings, plan: Resampling, batch_rows: int, epoch: int
) -> Iterator[pa.Table]:
    tables = shard.iter_batches(batch_format="pyarrow", batch_size=batch_rows, prefetch_batches=2)
    return shuffled_batches(
        repeated(iter(tables), settings.heads, plan, seed=settings.seed, epoch=epoch),
        batch_rows=batch_rows,
        buffer_rows=_shuffle_rows(settings, batch_rows),
        seed=settings.seed * 1_000_003 + epoch,
    )


def _shuffle_rows(settings: WorkerSettings, batch_rows: int) -> int:
    row_bytes = settings.preprocess.size**2 * 3 * settings.images_per_row
    return max(batch_rows, int(settings.shuffle_mib * 2**20 // row_bytes))


def batch_of(table: pa.Table, heads: Sequence[HeadSpec], preprocess: Preprocess) -> Batch:
    """Rows of ``dataset.rows.decode_shard`` as tensors.

    All is copied, as Ray's memory may not be written to.
    """
    pixels = torch.from_numpy(pixels_of(table.column("pixels"), preprocess).copy())
    targets = {h.name: torch.tensor(h.targets(table.column(h.target_field().name))) for h in heads}
    labels = {h.name: torch.tensor(h.label_values(table.column(f"{h.name}_label"))) for h in heads}
    return Batch(pixels, targets, labels, _others(table, preprocess), _weights(table))


def _weights(table: pa.Table) -> torch.Tensor | None:
    return (
        torch.tensor(table.column(WEIGHT).fill_null(1).to_numpy()) if WEIGHT in table.column_names else None
    )


def _others(table: pa.Table, preprocess: Preprocess) -> Others | None:
    """Images of the rows beyond the first of each; None without any."""
    if OTHERS not in table.column_names:
        return None
    counts = num_others(table.column(OTHERS))
    if not counts.any():
        return None
    flat = table.column(OTHERS).combine_chunks().flatten()
    pixels = pixels_of(pa.chunked_array([flat]), preprocess).copy()
    return Others(torch.from_numpy(pixels), torch.from_numpy(counts))
