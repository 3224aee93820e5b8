"""Several catalogs read as one: their columns brought to one type, each key once, each row with its source.

The rows of one catalog are ``catalog.rows``' matter; here they are put side by side. Of a key that two
catalogs have the first one's row counts: so pictures with true labels go before pictures with guessed ones.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa

from pix2score.catalog.catalog import Catalog, open_catalog
from pix2score.catalog.columns import OPTIONAL, Columns
from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.rows import (
    PLAN_DISK_BYTES,
    SOURCE,
    WEIGHT,
    catalog_rows,
    drop_keyed,
    estimated_rows,
    load_keyed,
)
from pix2score.catalog.types import common_label_type
from pix2score.errors import DataError
from pix2score.heads.spec import HeadSpec
from pix2score.storage.sql import engine

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogs:
    """Catalogs in the order given, whose label columns and ids have one type."""

    members: tuple[Catalog, ...]

    @classmethod
    def of(cls, *members: Catalog) -> Catalogs:
        """Those of one type already."""
        return cls(members=members)

    @property
    def first(self) -> Catalog:
        """What all have in common can be asked of it: ids, label columns, how images are named."""
        return self.members[0]

    @property
    def are_plain(self) -> bool:
        """Whether it is one catalog, of whose rows neither source nor weight is asked."""
        return len(self.members) == 1 and not self.first.extras

    @property
    def place(self) -> str:
        """For messages."""
        return " and ".join(catalog.folder.uri for catalog in self.members)


def open_catalogs(
    places: Sequence[str], columns: Columns, heads: Sequence[HeadSpec], extras: dict[str, str]
) -> Catalogs:
    """The catalogs at ``places`` as one; ``extras``: our name -> column, of ``source`` and ``weight``.

    With several, a column may be lacking in some of them, but for id and image: its rows have none of it.

    Raises ``DataError`` as ``open_catalog`` does, and where ids or images of two are of different kinds.
    """
    if len(places) == 1:
        return Catalogs.of(open_catalog(places[0], columns, heads, extras=extras))
    labels = [name for head in heads for name in head.label_columns]
    asked = [name for ours in OPTIONAL if (name := getattr(columns, ours))]
    may_lack = {*labels, *asked, *extras.values()}
    members = [open_catalog(place, columns, heads, extras=extras, may_lack=may_lack) for place in places]
    _check_alike(members)
    for name in dict.fromkeys((*labels, *asked, *extras.values())):
        _check_there(name, members)
    return Catalogs(members=tuple(_aligned(members, labels)))


def _check_alike(members: Sequence[Catalog]) -> None:
    first = members[0]
    for other in members[1:]:
        if not first.id_type.equals(other.id_type):
            raise DataError(
                f"catalog {other.folder.uri}: column {other.columns.id} is {other.id_type}, in "
                f"{first.folder.uri} {first.id_type}: write the ids of both as integers or both as text"
            )
        if first.embedded != other.embedded:
            embeds, names = (other, first) if other.embedded else (first, other)
            raise DataError(
                f"catalog {embeds.folder.uri} embeds its images and {names.folder.uri} names them by uri: "
                "several catalogs must all do one of both"
            )


def _check_there(name: str, members: Sequence[Catalog]) -> None:
    lacking = [catalog.folder.uri for catalog in members if name not in catalog.schema.names]
    if len(lacking) == len(members):
        shown = "; ".join(f"{c.folder.uri} has {', '.join(c.schema.names)}" for c in members)
        raise DataError(f"none of the catalogs has a column {name!r}: {shown}")
    for place in lacking:
        logger.info("catalog %s has no column %s: its rows have no value of it", place, name)


def _aligned(members: Sequence[Catalog], labels: Sequence[str]) -> Iterator[Catalog]:
    """The catalogs with label columns of one type, also those that lack one."""
    common = {
        name: common_label_type([c.schema.field(name).type for c in members if name in c.schema.names])
        for name in dict.fromkeys(labels)
    }
    for catalog in members:
        others = [field for field in catalog.schema if field.name not in common]
        fields = [pa.field(name, kind) for name, kind in common.items()]
        yield replace(catalog, schema=pa.schema([*others, *fields]))


@contextlib.contextmanager
def rows_of_all(catalogs: Catalogs, counts: PlanCounts) -> Iterator[duckdb.DuckDBPyConnection]:
    """``catalog_rows`` of several: ``keyed`` has each key once, and columns ``source`` and ``weight``.

    ``source`` is text: what the row's column says, else the number of its catalog; ``weight`` may be null.
    ``names_split`` says whether the row's catalog names its split. Uris of several are absolute; the file of
    an embedded image begins with the catalog's number and a slash (``contents.ImageRows``).
    """
    if catalogs.are_plain:
        with catalog_rows(catalogs.first, counts) as connection:
            yield connection
        return
    rows = sum(map(estimated_rows, catalogs.members))
    with engine(disk_bytes=rows * PLAN_DISK_BYTES, what=f"planning about {rows} catalog rows") as connection:
        for number, catalog in enumerate(catalogs.members):
            of_one = PlanCounts()
            load_keyed(connection, catalog, of_one)
            verb = "INSERT INTO joined" if number else "CREATE TABLE joined AS"
            connection.execute(f"{verb} {_joined_sql(catalogs, number)}")
            drop_keyed(connection)
            counts.catalog_rows += of_one.catalog_rows
            counts.null_id += of_one.null_id
            counts.duplicate_key += of_one.duplicate_key
        _drop_repeated(connection, counts)
        connection.execute("CREATE VIEW keyed AS SELECT * EXCLUDE (number) FROM joined")
        yield connection


def _joined_sql(catalogs: Catalogs, number: int) -> str:
    catalog = catalogs.members[number]
    is_one = len(catalogs.members) == 1
    source = f"coalesce({SOURCE}, '{number}')" if SOURCE in catalog.extras else f"'{number}'"
    weight = WEIGHT if WEIGHT in catalog.extras else "NULL::DOUBLE"
    uri = "uri" if is_one else absolute_uri(catalog.folder.uri)
    file = "file" if is_one else f"'{number}/' || file"
    labels = "".join(f", label_{i}" for i in range(len(catalog.labels)))
    return (
        f'SELECT illust_id, page, {uri} AS uri, {file} AS file, "row", fingerprint, "group", split{labels}, '
        f"{source} AS {SOURCE}, {weight} AS {WEIGHT}, {catalog.columns.split is not None} AS names_split, "
        f"{number} AS number FROM keyed"
    )


def absolute_uri(folder: str) -> str:
    """SQL: a uri below its own catalog's ``folder``, unless it says itself where it begins."""
    begins = r"(/|\\\\|[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.-]*://|(?i:file|data):).*"
    below = folder.rstrip("/").replace("'", "''")
    return f"CASE WHEN regexp_full_match(uri, '{begins}', 's') THEN uri ELSE '{below}/' || uri END"


def _drop_repeated(connection: duckdb.DuckDBPyConnection, counts: PlanCounts) -> None:
    """Delete rows of keys that an earlier catalog has; count them, all and by source."""
    first = "SELECT illust_id, page, min(number) AS first FROM joined GROUP BY ALL HAVING count(*) > 1"
    connection.execute(
        f"CREATE TABLE lost AS SELECT joined.rowid AS place, {SOURCE} FROM joined JOIN ({first}) "
        "USING (illust_id, page) WHERE number > first"
    )
    connection.execute("DELETE FROM joined WHERE rowid IN (SELECT place FROM lost)")
    by_source = connection.execute(f"SELECT {SOURCE}, count(*) FROM lost GROUP BY 1 ORDER BY 1").fetchall()
    for source, rows in by_source:
        counts.sources.setdefault(source, {})["key_of_another"] = rows
        counts.key_of_another += rows
