"""Decoded shard rows as batches of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from pix2score.batch import Batch
from pix2score.fetch import pixels_of
from pix2score.heads import HeadSpec
from pix2score.images import Preprocess


def batch_of(table: pa.Table, heads: Sequence[HeadSpec], preprocess: Preprocess) -> Batch:
    """Rows as ``dataset.decode_shard`` gives them; their pixels are copied, as Ray's memory may not be written to."""
    pixels = torch.from_numpy(pixels_of(table.column("pixels"), preprocess).copy())
    names = [head.name for head in heads]
    bins = {name: torch.from_numpy(table.column(f"{name}_bin").to_numpy().astype(np.int64)) for name in names}
    labels = {name: torch.from_numpy(table.column(f"{name}_label").to_numpy().astype(np.float64)) for name in names}
    return Batch(pixels, bins, labels)
