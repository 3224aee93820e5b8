"""Which value of a column each row of a split has: what ``evaluate --by`` tells numbers apart by.

Values come from the catalog that the dataset was made from, by key, or from the dataset's own column
``source``. Joined out of core; kept are 9 bytes per row of the split.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt

from pix2score.catalog.catalog import Catalog, Columns, open_catalog, place_of
from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.rows import SOURCE, catalog_rows
from pix2score.catalog.types import is_list, text_sql
from pix2score.dataset.card import PreparedDataset
from pix2score.errors import ConfigError, DataError, StorageError
from pix2score.evaluate.column_parts import MAX_VALUES, NONE, Parts, cut_into_quarters, most_frequent
from pix2score.heads.compared import FIRST_PAGE
from pix2score.storage.parquet import open_parquet, parquet_batches
from pix2score.storage.sql import engine, in_memory, load, numbered, one_row

logger = logging.getLogger(__name__)
_HASH = "hash(illust_id, page)"


@dataclass(frozen=True, slots=True)
class Strata:
    """The parts that a column makes of a split, and the part of each row."""

    column: str
    parts: Parts
    hashes: npt.NDArray[np.uint64]
    """Of the keys, ascending."""
    numbers: npt.NDArray[np.int8]
    """The part of each of them."""

    @property
    def num_rows(self) -> list[int]:
        """Of each part."""
        return [int(n) for n in np.bincount(self.numbers, minlength=len(self.parts.names))]

    def of(self, rows: pa.Table) -> npt.NDArray[np.int8]:
        """The part of each of these rows of the split."""
        keys = numbered(rows, "illust_id", "page")
        found = in_memory(f"SELECT {_HASH} AS h FROM keys ORDER BY position", keys=keys)
        return np.asarray(self.numbers[np.searchsorted(self.hashes, found.column("h").to_numpy())])


def check_columns(dataset: PreparedDataset, columns: Sequence[str]) -> Catalog | None:
    """The catalog that has ``columns``, opened; None where none of them needs one.

    Raises ``DataError`` where it has no such column (the nearest is named), or cannot be read any more;
    ``ConfigError`` for one whose values are no parts, or where several catalogs could have it.
    """
    wanted = [name for name in dict.fromkeys(columns) if not (name == SOURCE and dataset.has_column(SOURCE))]
    if not wanted:
        return None
    if dataset.card.get("more_catalogs"):
        raise ConfigError(
            f"--by {', '.join(wanted)}: the dataset is of several catalogs; of such only --by {SOURCE}"
        )
    place, config = place_of(dataset.card["catalog"]), dataset.card["config"]
    try:
        catalog = open_catalog(place, Columns(**config["columns"]), others=wanted)
    except (DataError, StorageError, FileNotFoundError) as exc:
        raise DataError(
            f"--by {', '.join(wanted)}: of the catalog that the dataset was made from: {exc}"
        ) from None
    for name in wanted:
        kind = catalog.schema.field(name).type
        if is_list(kind) or pt.is_struct(kind) or pt.is_map(kind) or name == catalog.columns.image:
            raise ConfigError(f"--by {name}: is {kind} in the catalog, expected text, yes or no, or a number")
    return catalog


def strata_of(
    dataset: PreparedDataset, split: str, columns: Sequence[str], catalog: Catalog | None
) -> list[Strata]:
    """The parts that each of ``columns`` makes of a split; ``catalog`` as ``check_columns`` gives it.

    A row of compared images has the value of its first image's id. Raises ``DataError`` where the catalog
    has none of the rows any more.
    """
    found = []
    for name in dict.fromkeys(columns):
        if catalog is None or name not in catalog.labels:
            with engine(what="reading sources") as connection:
                found.append(_of_shards(connection, dataset, split))
    names = [name for name in dict.fromkeys(columns) if catalog and name in catalog.labels]
    if catalog is not None:
        with _joined(catalog, dataset, split) as connection:
            found += [
                _strata(connection, name, f"value_{catalog.labels.index(name)}", catalog.schema.field(name))
                for name in names
            ]
    order = list(dict.fromkeys(columns))
    return sorted(found, key=lambda strata: order.index(strata.column))


def _load_keys(
    connection: duckdb.DuckDBPyConnection, dataset: PreparedDataset, split: str, more: Sequence[str] = ()
) -> None:
    """Table ``wanted``: the keys of a split, and further columns of its shards."""
    paths, names = [part.path for part in dataset.parts(split)], ["illust_id", "page", *more]
    with open_parquet(dataset.folder, paths[0]) as file:
        schema = pa.schema([file.schema_arrow.field(name) for name in names])
    load(connection, "wanted", schema, parquet_batches(dataset.folder, paths, names))


def _of_shards(connection: duckdb.DuckDBPyConnection, dataset: PreparedDataset, split: str) -> Strata:
    _load_keys(connection, dataset, split, [SOURCE])
    connection.execute(f"CREATE TABLE found AS SELECT illust_id, page, {SOURCE} AS value_0 FROM wanted")
    return _strata(connection, SOURCE, "value_0", pa.field(SOURCE, pa.string()))


@contextmanager
def _joined(catalog: Catalog, dataset: PreparedDataset, split: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB with table ``found``: the keys of a split, and as ``value_<i>`` the catalog's columns."""
    values = [f"label_{i} AS value_{i}" for i in range(len(catalog.labels))]
    firsts = [f"arg_min(label_{i}, page) AS value_{i}" for i in range(len(catalog.labels))]
    with catalog_rows(catalog, PlanCounts()) as connection:
        _load_keys(connection, dataset, split)
        connection.execute(
            "CREATE TABLE found AS "
            "SELECT wanted.illust_id, wanted.page, keyed.illust_id IS NOT NULL AS is_there, "
            f"{', '.join(values)} FROM wanted LEFT JOIN keyed USING (illust_id, page) "
            f"WHERE wanted.page > {FIRST_PAGE} UNION ALL "
            f"SELECT wanted.illust_id, wanted.page, firsts.illust_id IS NOT NULL, {_listed(len(firsts))} "
            f"FROM wanted LEFT JOIN (SELECT illust_id, {', '.join(firsts)} FROM keyed GROUP BY illust_id) "
            f"AS firsts USING (illust_id) WHERE wanted.page <= {FIRST_PAGE}"
        )
        _tell_missing(connection, catalog)
        yield connection


def _listed(number: int) -> str:
    return ", ".join(f"value_{i}" for i in range(number))


def _tell_missing(connection: duckdb.DuckDBPyConnection, catalog: Catalog) -> None:
    rows, present = one_row(connection, "SELECT count(*), count(*) FILTER (is_there) FROM found")
    if not present:
        raise DataError(
            f"--by: catalog {catalog.folder.uri} has none of the {rows} rows of the split any more"
        )
    if present < rows:
        logger.warning(
            "--by: %d of %d rows of the split are not in the catalog any more: they count as %s",
            rows - present,
            rows,
            NONE,
        )


def _strata(connection: duckdb.DuckDBPyConnection, column: str, value: str, field: pa.Field) -> Strata:
    kind = field.type
    text = text_sql(value, kind)
    is_number = pt.is_integer(kind) or pt.is_floating(kind) or pt.is_decimal(kind)
    (num_values,) = one_row(connection, f"SELECT count(DISTINCT {text}) FROM found")
    if is_number and num_values > MAX_VALUES:
        parts, number = cut_into_quarters(connection, value, is_whole=pt.is_integer(kind))
    else:
        parts, number = most_frequent(connection, value, text, is_number=is_number)
    rows = connection.sql(
        f"SELECT {_HASH} AS h, ({number})::TINYINT AS n FROM found ORDER BY h"
    ).to_arrow_table()
    return Strata(column, parts, rows.column("h").to_numpy(), rows.column("n").to_numpy())
