"""A trained model measured on one split, kept beside it: numbers for people, and each image's answer.

Below the model's folder:

    SPLIT/answers.parquet   key, group, targets, labels and the model's calibrated answers, row by row
    SPLIT/metrics.json      written last: numbers with intervals of every head, as jobs.evaluate has them
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pix2score.cluster.offer import Offer
from pix2score.compare.cost import cost_of
from pix2score.dataset.card import PreparedDataset, check_heads
from pix2score.errors import DataError
from pix2score.evaluate.gather import Evaluation, answers_in, is_kept, ridge_in
from pix2score.evaluate.pipeline import EvaluationPipeline
from pix2score.evaluate.sample import Sample, draw_of
from pix2score.heads.spec import HeadSpec, present
from pix2score.metrics.findings import Findings
from pix2score.metrics.formulas import Floats
from pix2score.metrics.intervals import MAX_BYTES, MAX_ROWS
from pix2score.metrics.protocol import Answers
from pix2score.model.card import CARD, load_card
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import open_parquet, parquet_batches, parquet_bytes

ANSWERS, METRICS = "answers.parquet", "metrics.json"
Ridges = Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class Measured:
    """What is kept of a model on a split."""

    place: Folder
    """Of the answers and the numbers."""
    heads: tuple[HeadSpec, ...]
    calibrations: Mapping[str, Mapping[str, Any]]
    record: dict[str, Any]
    """metrics.json."""

    def answers(self, head: str) -> Answers:
        """Of the images that have a label; in the same order whatever model answers."""
        spec = self._spec(head)
        return answers_in(self._rows(spec), spec, 0, self.calibrations[head])

    def ridge(self, head: str) -> Floats | None:
        """What the ridge regression says of the same images; None where there is none for the head."""
        spec = self._spec(head)
        return ridge_in(self._rows(spec), spec)

    def _spec(self, head: str) -> HeadSpec:
        return next(each for each in self.heads if each.name == head)

    def _rows(self, head: HeadSpec) -> pa.Table:
        name = head.name
        wanted = {"group", head.target_field().name, f"{name}_label", f"{name}_outputs_0", f"ridge_{name}"}
        with open_parquet(self.place, ANSWERS) as file:
            return file.read([column for column in file.schema_arrow.names if column in wanted])


def measured(model: str, split: str, dataset: PreparedDataset) -> Measured | None:
    """What is kept of the model on the split; None where it is not trained, or not measured on it as it is.

    Raises ``DataError`` if what is there is damaged.
    """
    folder = Folder(model)
    place = folder / split
    if not (folder.is_file(CARD) and place.is_file(METRICS)):
        return None
    card = load_card(model)
    try:
        record = json.loads(place.read(METRICS))
    except ValueError:
        raise DataError(
            f"{place.full(METRICS)} is not JSON; remove it, and the split is measured again"
        ) from None
    if (record.get("model_version"), record.get("dataset_id")) != (card.version, dataset.id):
        return None
    calibrations = {head.name: card.calibration(head.name) for head in card.heads}
    return Measured(place, card.heads, calibrations, record)


def measure(
    model: str, split: str, dataset: PreparedDataset, ridges: Ridges, offer: Offer, *, use_gpu: bool
) -> None:
    """Let the model answer the split, and keep what it says.

    Raises ``DataError`` as ``jobs.evaluate`` does.
    """
    card, place = load_card(model), Folder(model) / split
    check_heads(model, card.heads, dataset)
    pipeline = EvaluationPipeline(
        models=[model],
        cards=[card],
        dataset=dataset,
        split=split,
        offer=offer,
        use_gpu=use_gpu,
        num_explained=0,
    )
    evaluation, kept, share = (
        Evaluation(card, card.heads),
        [],
        kept_share(dataset.num_rows(split), card.heads),
    )
    for table in pipeline.rows(ridges, Sample()).iter_batches(batch_format="pyarrow", batch_size=1024):
        evaluation.add(table)
        kept.append(_kept(table, share))
    findings = Findings(
        model_version=card.version,
        dataset_id=dataset.id,
        split=split,
        metrics=evaluation.metrics(),
        details={},
    )
    record = {**findings.to_dict(), "cost": cost_of(model, card, use_gpu=use_gpu).to_dict()}
    place.publish(ANSWERS, parquet_bytes(in_one_order(pa.concat_tables(kept), card.heads)), replace=True)
    place.publish(METRICS, json.dumps(record, indent=1).encode(), replace=True)


def kept_share(num_rows: int, heads: Sequence[HeadSpec]) -> float:
    """Of a split's rows, those whose answers are kept: as many as an evaluation keeps for its intervals."""
    row_bytes = 4 * sum(head.num_outputs for head in heads)
    return min(1.0, min(MAX_ROWS, MAX_BYTES / row_bytes) / num_rows)


def _kept(rows: pa.Table, share: float) -> pa.Table:
    """The same images of every model: a hash of the key chooses."""
    found = rows.select([name for name in rows.column_names if is_kept(name)])
    if share >= 1:
        return found
    keys = zip(rows.column("illust_id").to_pylist(), rows.column("page").to_pylist(), strict=True)
    return found.filter(pa.array([draw_of(key) < share for key in keys]))


def in_one_order(rows: pa.Table, heads: Sequence[HeadSpec]) -> pa.Table:
    """By key, and where that may be the first of several sets of compared images, by how those compare."""
    compared = [rows.column(head.target_field().name) for head in heads if head.COMPARES]
    by = [("illust_id", "ascending"), ("page", "ascending")]
    for number, column in enumerate(compared):
        rows = rows.append_column(f"order_{number}", pa.array([repr(each) for each in column.to_pylist()]))
        by.append((f"order_{number}", "ascending"))
    return rows.sort_by(by).drop_columns([name for name, _ in by[2:]])


def labels_by_head(dataset: PreparedDataset, split: str) -> dict[str, int]:
    """Head -> rows of the split that have a label for it."""
    paths = [part.path for part in dataset.parts(split)]
    found = dict.fromkeys((head.name for head in dataset.heads), 0)
    names = [head.target_field().name for head in dataset.heads]
    for batch in parquet_batches(dataset.folder, paths, names):
        rows = pa.table(batch.columns, names=batch.schema.names)
        for head in dataset.heads:
            found[head.name] += int(present(head.targets(rows.column(head.target_field().name))).sum())
    return found
