"""How far the answers of one scores table are from those of another: per head, two histograms and one number.

What is compared is what the kind of the head says of a night: of heads with a score that is where it lies,
whatever their bins, so that two models compare though their edges differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.heads.spec import HeadSpec
from pix2score.snapshots.tables import OK
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches

PSI_MOVED, PSI_DRIFTED = 0.1, 0.25
"""The customary steps of the population stability index."""
MIN_ROWS = 300
"""Images below which a distribution says nothing: 15 bins of 300 images alone give a PSI near 0.05."""

Histogram = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class HeadDrift:
    """A head's answers in two tables, in the steps of the newer one's head."""

    head: HeadSpec
    now: Histogram
    before: Histogram

    @property
    def psi(self) -> float:
        """How far apart they are, to four decimals."""
        return round(psi(self.now, self.before), 4)


def psi(now: Histogram, before: Histogram) -> float:
    """Population stability index of two histograms: 0 if their shares are equal.

    An empty bin counts as half an image.
    """
    p, q = (np.maximum(counts, 0.5) / np.maximum(counts, 0.5).sum() for counts in (now, before))
    return float(((p - q) * np.log(p / q)).sum())


def comparable(now: Sequence[HeadSpec], before: Sequence[HeadSpec]) -> list[HeadSpec]:
    """Heads of ``now`` that ``before`` has too: by the same name, of the same kind."""
    kinds = {head.name: head.kind for head in before}
    return [head for head in now if kinds.get(head.name) == head.kind]


def answer_histograms(
    folder: Folder, paths: Sequence[str], heads: Sequence[HeadSpec]
) -> dict[str, Histogram]:
    """Head -> ok rows per step of its answer, in SCORES files that have its columns.

    Streams the files: memory does not grow with their rows. Histograms of several calls add up; one of no
    rows at all is a single 0.
    """
    found = {head.name: np.zeros(1, np.int64) for head in heads}
    columns = ["status", *(name for head in heads for name in head.night_columns)]
    for batch in parquet_batches(folder, paths, columns):
        rows = pa.Table.from_batches([batch])
        rows = rows.filter(pc.equal(rows.column("status"), OK))
        for head in heads:
            found[head.name] = found[head.name] + head.histogram(rows)
    return found
