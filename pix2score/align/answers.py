"""What a model answers to the labelled rows of a dataset, by source."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pix2score.align.lines import Rows
from pix2score.catalog.keys import KEY
from pix2score.cluster.offer import Offer
from pix2score.dataset.card import PreparedDataset
from pix2score.errors import DataError
from pix2score.evaluate.gather import answers_in
from pix2score.evaluate.pipeline import EvaluationPipeline
from pix2score.evaluate.sample import Sample
from pix2score.heads.spec import HeadSpec, present
from pix2score.metrics.intervals import MAX_ROWS
from pix2score.metrics.kinds import numbers_of
from pix2score.model.card import ModelCard
from pix2score.storage.parquet import open_parquet, parquet_batches
from pix2score.storage.sql import engine, load

logger = logging.getLogger(__name__)


def check_column(dataset: PreparedDataset, column: str) -> None:
    """Raise ``DataError`` if rows of the dataset have no such column, saying how they get it."""
    if dataset.has_column(column):
        return
    raise DataError(
        f"dataset {dataset.folder.uri} has no column {column}: jobs.prepare writes it for several --catalog, "
        "or for --source-column NAME"
    )


def answered_rows(
    model: str,
    card: ModelCard,
    dataset: PreparedDataset,
    head: HeadSpec,
    splits: Sequence[str],
    offer: Offer,
    *,
    column: str,
    use_gpu: bool,
) -> dict[str, Rows]:
    """Value of ``column`` -> its labelled rows, in the order of the values.

    At most ``MAX_ROWS`` rows in all: shards are mixed, so the first ones are a random sample.
    """
    tables: list[pa.Table] = []
    for split in splits:
        if not dataset.num_rows(split):
            continue
        pipeline = EvaluationPipeline(
            models=[model], cards=[card], dataset=dataset, split=split, offer=offer, use_gpu=use_gpu
        )
        logger.info("%s answers %d rows of split %s", model, dataset.num_rows(split), split)
        for rows in pipeline.rows({}, Sample()).iter_batches(batch_format="pyarrow", batch_size=1024):
            tables.append(_pairs(rows, head, card))
            if sum(table.num_rows for table in tables) >= MAX_ROWS:
                break
    if not tables:
        raise DataError(f"dataset {dataset.folder.uri} has no row in split {' or '.join(splits)}")
    return _by_value(dataset, splits, column, pa.concat_tables(tables))


def _pairs(rows: pa.Table, head: HeadSpec, card: ModelCard) -> pa.Table:
    """Key, group, label and answer of the rows that have a label."""
    labelled = rows.filter(pa.array(present(head.targets(rows.column(head.target_field().name)))))
    answers = answers_in(labelled, head, 0, card.calibration(head.name))
    pairs = numbers_of(head).in_label_unit(answers)
    assert pairs is not None, "a head without a number is refused before"
    said, label = pairs
    keys = {name: labelled.column(name) for name in KEY}
    return pa.table({**keys, "group": answers.group, "said": said, "label": label})


def _by_value(
    dataset: PreparedDataset, splits: Sequence[str], column: str, found: pa.Table
) -> dict[str, Rows]:
    paths = [part.path for split in splits if dataset.num_rows(split) for part in dataset.parts(split)]
    wanted = [*KEY, column]
    with open_parquet(dataset.folder, paths[0]) as file:
        schema = pa.schema([file.schema_arrow.field(name).with_nullable(True) for name in wanted])

    def values() -> Iterator[pa.RecordBatch]:
        yield from parquet_batches(dataset.folder, paths, wanted)

    with engine(what="joining answers with their sources") as connection:
        load(connection, "named", schema, values())
        connection.register("found", found)
        table = connection.sql(
            f'SELECT named."{column}" AS value, "group", said, label FROM found JOIN named USING '
            f'({", ".join(KEY)}) WHERE named."{column}" IS NOT NULL AND isfinite(label) AND isfinite(said) '
            "ORDER BY value, illust_id, page"
        ).to_arrow_table()
    return {
        value: _rows(table.filter(pc.equal(table.column("value"), value)))
        for value in pc.unique(table.column("value")).to_pylist()
    }


def _rows(table: pa.Table) -> Rows:
    label, said, group = (table.column(name).to_numpy() for name in ("label", "said", "group"))
    return Rows(label, said, group)
