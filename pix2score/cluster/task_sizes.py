"""How many rows a decode task reads."""

from __future__ import annotations

from collections.abc import Sequence

from pix2score.catalog.contents import ImageRows
from pix2score.catalog.row_groups import row_group_runs, task_sizes, warn_of_large
from pix2score.cluster.offer import Offer
from pix2score.cluster.source import BLOCK_ROWS, TaskRows
from pix2score.images.preprocess import Preprocess
from pix2score.storage.folder import Folder
from pix2score.storage.parts import MAX_PARTS, PART_ROWS, Part, part_rows, total_rows

MAX_TASK_ROWS = BLOCK_ROWS  # 256 x 224 x 224 x 3 bytes = 38 MB per block, and some seconds of one core
MAX_ENCODED_ROWS = 64  # originals of 1 MB fill a block
MAX_ACTOR_ROWS = 64
"""Some seconds of a core even with a large network: what a killed worker costs, and how often progress is
reported."""
EMBEDDED_TASK_ROWS = 1024
"""A task reads whole row groups of the catalog: fewer tasks, fewer repeated reads of one row group."""
MAX_EMBEDDED_TASK_ROWS = 2048
"""What a task makes may come out at its end, and a piece is to close within a minute."""
BLOCK_BYTES = 64 * 2**20
"""Of pixels, or of what an image is kept as; a decode task holds them twice, once as a list."""
SHARD_ROW_BYTES = 40_000  # an encoded image of 256 px; like the next, only a hint to Ray's scheduler
TASK_ROWS_STEP = 16  # whole batches of a forward pass on a CPU
# of a run: beyond that many a task makes several blocks, as the driver keeps an account of each task
MAX_TASKS = MAX_PARTS


def embedded_sizes(
    folder: Folder, parts: Sequence[Part], images: ImageRows, offer: Offer, few: int
) -> list[list[int]]:
    """Rows of each task of each part, along the catalog's row groups where they are not too large.

    ``few``: those of an even task.
    """
    most = max(few, min(MAX_EMBEDDED_TASK_ROWS, total_rows(parts) // (2 * offer.num_cores)))
    runs = row_group_runs(images.folder, folder, parts)
    warn_of_large(runs, MAX_EMBEDDED_TASK_ROWS)
    return [list(task_sizes(run, few, most)) for run in runs]


def task_rows(num_rows: int, offer: Offer, most: int, *, is_embedded: bool) -> TaskRows:
    """Rows of the next decode task by how many are left.

    A block, and less and less at the end, so that every core is busy to it; several blocks in a huge job. Of
    embedded images a fixed number, or where row groups end (``catalog.row_groups``).
    """
    least = max(TASK_ROWS_STEP, -(-num_rows // MAX_TASKS))
    if least > PART_ROWS:  # no task works on two parts, and none should be left a small rest of one
        least = part_rows(num_rows)
    if is_embedded:
        even = max(least, min(EMBEDDED_TASK_ROWS, num_rows // (4 * offer.num_cores)))
        return lambda left: even

    def rows(left: int) -> int:
        share = left // (8 * offer.num_cores) // TASK_ROWS_STEP * TASK_ROWS_STEP
        return max(least, min(most, share))

    return rows


def block_rows(preprocess: Preprocess) -> int:
    """Images whose pixels fill a block of ``BLOCK_BYTES``."""
    return max(1, BLOCK_BYTES // (preprocess.size**2 * 3))
