"""The checks of ``verify`` as SQL over tables of some rows, or of some keys, of one snapshot.

What is wrong is counted, so that the counts of several tasks add up.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import duckdb
import pyarrow as pa

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.keys import Key
from pix2score.catalog.rows import catalog_rows
from pix2score.errors import IMAGE_ERROR_CODES, RETRIED_ERROR_CODES
from pix2score.heads.spec import HeadSpec
from pix2score.snapshots.snapshot import Snapshot
from pix2score.storage.sql import load, one_row


@dataclass(frozen=True, slots=True)
class Promise:
    """What the manifest of a snapshot says that the checks compare with."""

    model_version: str
    rows: int
    failed: int
    pending: int
    heads: tuple[HeadSpec, ...]
    scores: pa.Schema
    embedding_run: str
    columns: dict[str, Any]
    """Of the catalog, as they were mapped."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> Promise:
        """What ``snapshot`` promises.

        Raises ``KeyError``, ``TypeError`` or ``AttributeError`` if a part is missing or of another form.
        """
        manifest, layout = snapshot.manifest, snapshot.layout
        counts = manifest["counts"]
        Columns(**manifest["config"]["columns"])
        if carry := manifest.get("carry"):
            carry["columns"].items()
        return cls(
            manifest["model_version"],
            counts["rows"],
            counts["failed"],
            counts.get("pending", 0),
            layout.heads,
            layout.scores,
            layout.embedding_run,
            manifest["config"]["columns"],
        )


@dataclass(slots=True)
class RowFacts:
    """What was found in some rows of the scores table; that of several adds up."""

    rows: int = 0
    failed: int = 0
    pending: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    """What is wrong -> rows or keys of which it is."""
    bounds: list[tuple[Key, Key]] = field(default_factory=list)
    """Smallest and greatest key of each table that was looked at."""

    def add(self, other: RowFacts) -> None:
        """Take in other rows."""
        self.rows += other.rows
        self.failed += other.failed
        self.pending += other.pending
        self.wrong.update(other.wrong)
        self.bounds += other.bounds

    @property
    def are_apart(self) -> bool:
        """Whether no two tables can have a key in common."""
        ordered = sorted(self.bounds)
        return all(one[1] < other[0] for one, other in pairwise(ordered))

    def problems(self, promise: Promise) -> list[str]:
        """All that is wrong, also with the counts of the manifest."""
        found = [f"{number} {what}" for what, number in self.wrong.items() if number]
        if (self.rows, self.failed) != (promise.rows, promise.failed):
            found.append(
                f"{self.rows} rows with {self.failed} failed, manifest says {promise.rows} with "
                f"{promise.failed}"
            )
        if self.pending != promise.pending:
            found.append(f"{self.pending} rows are pending, manifest says {promise.pending}")
        return found


REPEATED = "keys that stand more than once"
REPEATED_SQL = "SELECT illust_id, page FROM scores GROUP BY ALL HAVING count(*) > 1"


def row_facts(connection: duckdb.DuckDBPyConnection, promise: Promise) -> RowFacts:
    """What is in table ``scores``."""
    codes = ", ".join(f"'{code}'" for code in IMAGE_ERROR_CODES)
    retried = ", ".join(f"'{code}'" for code in RETRIED_ERROR_CODES)
    some_head = " OR ".join(f"{field.name} IS NOT NULL" for head in promise.heads for field in head.fields())
    tests = {
        REPEATED: REPEATED_SQL,
        "rows whose status is neither ok nor failed nor pending": (
            "SELECT 1 FROM scores WHERE status NOT IN ('ok', 'failed', 'pending')"
        ),
        "pending rows with predictions, an error_code, attempts or a fingerprint": (
            f"SELECT 1 FROM scores WHERE status = 'pending' AND ({some_head} OR error_code IS NOT NULL OR "
            "attempts <> 0 OR fingerprint IS NOT NULL)"
        ),
        "failed rows without a known error_code": (
            f"SELECT 1 FROM scores WHERE status = 'failed' AND coalesce(error_code, '') NOT IN ({codes})"
        ),
        "failed rows with predictions": f"SELECT 1 FROM scores WHERE status = 'failed' AND ({some_head})",
        "ok rows with an error_code that says more than that new content could not be had": (
            "SELECT 1 FROM scores WHERE status = 'ok' AND error_code IS NOT NULL AND error_code NOT IN "
            f"({retried})"
        ),
    }
    for head in promise.heads:
        for what, is_bad in head.bad_rows_sql().items():
            tests[what] = f"SELECT 1 FROM scores WHERE status = 'ok' AND coalesce({is_bad}, true)"
    counts = "count(*), count(*) FILTER (status = 'failed'), count(*) FILTER (status = 'pending')"
    rows, failed, pending = one_row(connection, f"SELECT {counts} FROM scores")
    return RowFacts(rows, failed, pending, _failing(connection, tests), _bounds(connection) if rows else [])


def _bounds(connection: duckdb.DuckDBPyConnection) -> list[tuple[Key, Key]]:
    first, last = (
        one_row(
            connection, f"SELECT illust_id, page FROM scores ORDER BY illust_id {way}, page {way} LIMIT 1"
        )
        for way in ("ASC", "DESC")
    )
    return [((first[0], first[1]), (last[0], last[1]))]


NOT_FINITE = "embeddings with NaN or infinity"


def key_problems(connection: duckdb.DuckDBPyConnection) -> Counter[str]:
    """What is wrong in table ``embeddings``, beside ``live`` and ``dead``: keys of some hashes, with runs."""
    return _failing(
        connection,
        {
            "embeddings that are neither live nor listed as dead": (
                "SELECT 1 FROM embeddings ANTI JOIN live USING (illust_id, page, run) ANTI JOIN dead "
                "USING (illust_id, page, run)"
            ),
            "live keys that are listed as dead": (
                "SELECT 1 FROM live SEMI JOIN dead USING (illust_id, page, run)"
            ),
            "ok keys without an embedding": (
                "SELECT 1 FROM live ANTI JOIN embeddings USING (illust_id, page, run)"
            ),
            "live keys with more than one embedding": (
                "SELECT 1 FROM embeddings SEMI JOIN live USING (illust_id, page, run) GROUP BY "
                "illust_id, page HAVING count(*) > 1"
            ),
        },
    )


def _failing(connection: duckdb.DuckDBPyConnection, tests: dict[str, str]) -> Counter[str]:
    return Counter(
        {what: one_row(connection, f"SELECT count(*) FROM ({sql})")[0] for what, sql in tests.items()}
    )


def check_catalog(connection: duckdb.DuckDBPyConnection, place: str, promise: Promise) -> list[str]:
    """Keys of the catalog and of the snapshot that the other lacks; columns as recorded in the snapshot."""
    catalog = open_catalog(place, Columns(**promise.columns))
    id_type = promise.scores.field("illust_id").type
    if not catalog.id_type.equals(id_type):
        return [f"the catalog's ids are {catalog.id_type}, the snapshot's {id_type}"]
    with catalog_rows(catalog, PlanCounts()) as rows:
        reader = rows.sql("SELECT illust_id, page FROM keyed").to_arrow_reader(65_536)
        load(connection, "wanted", reader.schema, reader)
    problems = []
    for what, left, right in (
        ("catalog keys are not in the snapshot", "wanted", "scores"),
        ("keys are not in the catalog", "scores", "wanted"),
    ):
        lacking = f"FROM {left} ANTI JOIN {right} USING (illust_id, page)"
        number, example = one_row(
            connection, f"SELECT count(*), min(concat_ws(', page ', illust_id, page)) {lacking}"
        )
        if number:
            problems.append(f"{number} {what}, such as id {example}")
    return problems
