"""Numbers under perturbation: a sample of a split, answered as it is and altered more and more.

Streams through Ray Data: shard rows into copies of each picture, those through ``answers.AnswerRows``. The
copies of a picture travel with it, so a row is altered where it is decoded and nothing is stored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import Key
from pix2score.dataset.card import PreparedDataset
from pix2score.evaluate.gather import answers_in
from pix2score.evaluate.perturbations import Perturbation
from pix2score.evaluate.sample import draw_of, group_number, keys_of
from pix2score.heads.compared import OTHERS
from pix2score.heads.spec import HeadSpec
from pix2score.images.columns import pixel_type
from pix2score.images.decode import open_upright, picture_to_rgb
from pix2score.images.preprocess import Preprocess
from pix2score.metrics.intervals import MAX_BYTES
from pix2score.metrics.perturbed import Copy, HeadPerturbed, Perturbed, head_perturbed
from pix2score.model.card import ModelCard
from pix2score.storage.arrow import matrix
from pix2score.storage.parts import Part

logger = logging.getLogger(__name__)
COPY = "copy"
"""Column: 0 of a picture as it is, else which perturbation, from 1."""


def sampled_parts(dataset: PreparedDataset, split: str, num_rows: int) -> tuple[list[Part], float]:
    """Shards that hold ``num_rows`` rows of a split, as rows are mixed over them, and which share to take."""
    found: list[Part] = []
    for part in sorted(dataset.parts(split), key=lambda part: part.path):
        found.append(part)
        if sum(part.rows for part in found) >= num_rows:
            break
    return found, num_rows / sum(part.rows for part in found)


def affordable_rows(asked: int, heads: Sequence[HeadSpec], num_perturbations: int) -> int:
    """At most ``asked``: as many as keep ``intervals.MAX_BYTES`` of answers."""
    row_bytes = 4 * sum(head.num_outputs for head in heads) * (1 + num_perturbations)
    most = max(1, MAX_BYTES // row_bytes)
    if most < asked:
        logger.info("--perturb: %d of %d rows, so that their answers fit into memory", most, asked)
    return min(asked, most)


def decode_perturbed(
    rows: pa.Table,
    *,
    heads: Sequence[HeadSpec],
    preprocess: Preprocess,
    perturbations: Sequence[Perturbation],
    share: float,
) -> Iterator[pa.Table]:
    """Ray Data stage: shard rows in; of a ``share`` of them by key, a table with every copy of the picture.

    Columns as ``stages.decode_for_evaluation`` gives them, without a sample, and ``copy``.
    """
    chosen = [i for i, key in enumerate(keys_of(rows)) if draw_of(key) < share]
    for i in chosen:
        yield _copies(rows.slice(i, 1), heads, preprocess, perturbations)
    if not chosen:
        yield _copies(rows.slice(0, 1), heads, preprocess, perturbations).slice(0, 0)


def _copies(
    row: pa.Table, heads: Sequence[HeadSpec], preprocess: Preprocess, perturbations: Sequence[Perturbation]
) -> pa.Table:
    (key,), num = keys_of(row), 1 + len(perturbations)
    (image,), (group,) = row.column("image").to_pylist(), row.column("group").to_pylist()
    copied = [row.column(name) for head in heads for name in (head.target_field().name, f"{head.name}_label")]
    names = [name for head in heads for name in (head.target_field().name, f"{head.name}_label")]
    same = pa.table([row.column("illust_id"), row.column("page"), *copied], ["illust_id", "page", *names])
    columns: dict[str, Any] = {name: same.take([0] * num).column(name) for name in same.column_names}
    columns["group"] = pa.array([group_number(group, key)] * num, pa.int64())
    columns[COPY] = pa.array(range(num), pa.int32())
    columns["pixels_0"] = pa.array(_pixels(image, key, preprocess, perturbations), pixel_type(preprocess))
    if any(head.COMPARES for head in heads):
        (others,) = row.column(OTHERS).to_pylist()
        columns["others_0"] = _other_pixels(others, key, preprocess, perturbations)
    return pa.table(columns)


def _pixels(
    image: bytes, key: Key, preprocess: Preprocess, perturbations: Sequence[Perturbation]
) -> list[bytes]:
    upright = open_upright(image)
    altered = (alter(upright, key) for alter in perturbations)
    return [picture_to_rgb(picture, preprocess).tobytes() for picture in (upright, *altered)]


def _other_pixels(
    others: Sequence[bytes] | None, key: Key, preprocess: Preprocess, perturbations: Sequence[Perturbation]
) -> pa.Array:
    kind, num = pa.list_(pixel_type(preprocess)), 1 + len(perturbations)
    if others is None:
        return pa.nulls(num, kind)
    of_each = [
        _pixels(image, (f"{key[0]}/{i}", key[1]), preprocess, perturbations) for i, image in enumerate(others)
    ]
    return pa.array([list(of_copy) for of_copy in zip(*of_each, strict=True)], kind)


def gathered(tables: Iterable[pa.Table], heads: Sequence[HeadSpec]) -> pa.Table:
    """All answers, a row's copies one after the other; only what numbers need."""
    wanted = {"illust_id", "page", "group", COPY}
    for head in heads:
        wanted |= {head.target_field().name, f"{head.name}_label", f"{head.name}_outputs_0"}
    kept = [table.select([name for name in table.column_names if name in wanted]) for table in tables]
    rows = pa.concat_tables(kept)
    return rows.sort_by([("illust_id", "ascending"), ("page", "ascending"), (COPY, "ascending")])


def measured(
    rows: pa.Table, card: ModelCard, heads: Sequence[HeadSpec], perturbations: Sequence[Perturbation]
) -> Perturbed:
    """The numbers of ``gathered`` rows."""
    copies = [rows.filter(pc.equal(rows.column(COPY), i)) for i in range(1 + len(perturbations))]
    found = {head.name: _head(head, card, copies, perturbations) for head in heads}
    return Perturbed(num_rows=copies[0].num_rows, heads=found)


def _head(
    head: HeadSpec, card: ModelCard, copies: Sequence[pa.Table], perturbations: Sequence[Perturbation]
) -> HeadPerturbed:
    plain, *others = (_copy(head, card, rows) for rows in copies)
    altered: dict[str, dict[float, Copy]] = {}
    for perturbation, copy in zip(perturbations, others, strict=True):
        altered.setdefault(perturbation.name, {})[perturbation.strength] = copy
    return head_perturbed(plain, altered)


def _copy(head: HeadSpec, card: ModelCard, rows: pa.Table) -> Copy:
    answers = answers_in(rows, head, 0, card.calibration(head.name))
    return Copy(matrix(rows.column(f"{head.name}_outputs_0")), answers)
