"""Settings of ``jobs.push``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pix2score.errors import ConfigError

POSTGRES = ("postgresql://", "postgres://")
OWN_TABLES = ("pix2score_push", "pix2score_incoming")
"""Where positions are, and what comes goes through."""
LANCEDB, DELTA = "lancedb:", "delta:"
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,50}(\.[A-Za-z_][A-Za-z0-9_]{0,50})?")


@dataclass(frozen=True, kw_only=True, slots=True)
class PushConfig:
    """Settings of ``jobs.push``."""

    scores: str
    """Scores folder: a local path or s3://bucket/prefix. What changed in it since the last push is sent."""
    to: str = field(repr=False)
    """Where to: postgresql://user@host:port/database (a table with pgvector; the password better from
    PGPASSWORD or ~/.pgpass than here), lancedb:PLACE (a table of a LanceDB folder), or delta:PLACE (a Delta
    table); PLACE is a local path or s3://bucket/prefix (gs://, az://)."""
    table: str = "scores"
    """Name of the table in a Postgres database, where it may have a schema before it (art.scores), or in a
    LanceDB folder; made by the first push."""
    batch_rows: int = 0
    """Rows that are sent, and made visible, together; 0: 5,000 to Postgres, 65,536 to the others, fewer if
    their embeddings take more than 256 MiB."""
    full: bool = False
    """Send every row and delete every key that is not live, rather than what changed since the last push:
    mends a table that others have written to."""
    recreate: bool = False
    """Drop the table and make it anew, as a model with other columns or another embedding needs it."""
    dry_run: bool = False
    """Count what would be sent and deleted; write nothing."""

    def __post_init__(self) -> None:
        if not self.to.startswith((*POSTGRES, LANCEDB, DELTA)):
            scheme = re.match(r"[\w+.-]*(?=:)", self.to)  # nothing else of it: that may be a password
            shown = repr(scheme[0]) if scheme else ""
            raise ConfigError(f"to {shown}…: expected postgresql://…, lancedb:PLACE or delta:PLACE")
        if not _TABLE.fullmatch(self.table):
            raise ConfigError(
                f"table {self.table!r}: letters, digits and _, at most 51, perhaps behind a schema and a dot"
            )
        if self.table.rpartition(".")[2].lower() in OWN_TABLES:
            raise ConfigError(f"table {self.table!r}: a push has a table of that name for itself")
        if "." in self.table and not self.to.startswith(POSTGRES):
            raise ConfigError(f"table {self.table!r}: only Postgres has schemas")
        if self.batch_rows < 0:
            raise ConfigError(f"batch_rows {self.batch_rows}: at least 1, or 0 for what suits the target")
