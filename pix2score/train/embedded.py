"""Rows of a run whose trunk stays as it is: each picture is embedded once, and the outputs learn from that.

Shapes: B images, D embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import torch

from pix2score.model.network import normalise
from pix2score.train.settings import WorkerSettings
from pix2score.train.step.batch import Batch, Others
from pix2score.train.step.fitter import Fitter

logger = logging.getLogger(__name__)


class EmbeddedRows:
    """This worker's rows with embeddings in place of pixels, kept in memory: 4 D bytes for each."""

    def __init__(
        self,
        fitter: Fitter,
        settings: WorkerSettings,
        batch_rows: int,
        read: Callable[[str], Iterator[Batch]],
    ) -> None:
        """``read``: batches of a split with their pixels; called once for each split."""
        self._fitter, self._settings, self._batch_rows, self._read = fitter, settings, batch_rows, read
        self._rows: dict[str, Batch] = {}

    def batches(self, split: str, epoch: int) -> Iterator[Batch]:
        """Batches of a split, float32 [B, D] where pixels would be.

        Those of train in an order of the seed, the epoch and the worker's rows alone; a last incomplete one
        is left out.
        """
        rows = self.whole(split)
        num_rows = len(rows.pixels_BSSC)
        if split != "train":
            size = self._settings.batch_size
            yield from (rows.rows(slice(i, i + size)) for i in range(0, num_rows, size))
            return
        order = torch.Generator().manual_seed(self._settings.seed * 1_000_003 + epoch)
        shuffled = torch.randperm(num_rows, generator=order)
        for i in range(0, num_rows - self._batch_rows + 1, self._batch_rows):
            yield rows.rows(shuffled[i : i + self._batch_rows])

    def whole(self, split: str) -> Batch:
        """All rows of a split at once, float32 [N, D] where pixels would be."""
        if split not in self._rows:
            self._rows[split] = self._embedded(split)
        return self._rows[split]

    @torch.no_grad()
    def _embedded(self, split: str) -> Batch:
        fitter, parts = self._fitter, list[Batch]()
        fitter.model.trunk.eval()
        for batch in self._read(split):
            image_NCHW = normalise(batch.images.to(fitter.device), fitter.preprocess)
            with fitter.cast.autocast():
                embedding_ND = fitter.model.embed(image_NCHW)
            parts.append(batch.with_images(embedding_ND.cpu()))
        rows = _joined(parts)
        mib = rows.pixels_BSSC.numel() * 4 / 2**20
        logger.info("%s: %d pictures embedded once, %.0f MiB in memory", split, len(rows.pixels_BSSC), mib)
        return rows


def _joined(parts: list[Batch]) -> Batch:
    return Batch(
        torch.cat([part.pixels_BSSC for part in parts]),
        {name: torch.cat([part.targets[name] for part in parts]) for name in parts[0].targets},
        {name: torch.cat([part.labels[name] for part in parts]) for name in parts[0].labels},
        _joined_others(parts),
        _joined_weights(parts),
    )


def _joined_weights(parts: list[Batch]) -> torch.Tensor | None:
    found = [part.weights_B for part in parts if part.weights_B is not None]
    return torch.cat(found) if found else None


def _joined_others(parts: list[Batch]) -> Others | None:
    """Those of all rows; a part without any counts as many rows of one image."""
    found = [part.others for part in parts if part.others]
    if not found:
        return None
    counts = [
        part.others.counts_B if part.others else torch.zeros(len(part.pixels_BSSC), dtype=torch.int64)
        for part in parts
    ]
    return Others(torch.cat([others.pixels_MSSC for others in found]), torch.cat(counts))
