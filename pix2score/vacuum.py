"""vacuum: what no kept snapshot and no recent run needs is removed; embedding files that are mostly dead are rewritten first."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pix2score.engine import engine, load, open_parquet, parquet_batches, query
from pix2score.errors import ConfigError
from pix2score.layout import DataFile, unique_path, write_file
from pix2score.schema import dead_schema
from pix2score.snapshot import Snapshot, dead_ids, live, numbers, path_of, publish, read_snapshot
from pix2score.staged import STAGED, staged_receipts
from pix2score.storage import Entry, Folder

logger = logging.getLogger(__name__)

MOSTLY_DEAD = 0.5
_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_TABLES = ("scores", "embeddings", "dead", STAGED)


@dataclass(frozen=True, kw_only=True, slots=True)
class VacuumConfig:
    """Settings of ``jobs.vacuum``."""

    scores: str
    """Scores folder: a local path or s3://bucket/prefix."""
    keep: int = 14
    """Snapshots that stay, the newest ones; ``read_changes`` can go back to the oldest of them."""
    keep_staged: str = "7d"
    """Files of runs that published nothing stay this long, for a later run to take up: 7d, 12h, 30m. Longer than any run takes."""
    dry_run: bool = False
    """Say what would be removed; remove and rewrite nothing."""

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ConfigError(f"keep {self.keep}: at least 1")
        seconds(self.keep_staged)


def seconds(age: str) -> float:
    """``7d``, ``12h``, ``30m`` or ``90s`` as seconds. Raises ``ConfigError``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([dhms])", age.strip())
    if not found:
        raise ConfigError(f"keep_staged {age!r}: expected a number with a unit, such as 7d, 12h, 30m or 90s")
    return float(found[1]) * _UNITS[found[2]]


def vacuum(config: VacuumConfig) -> dict[str, Any]:
    """The folder holds what the newest ``keep`` snapshots name, and what runs staged of late; counts and bytes removed come back.

    Raises:
        DataError: no snapshot there.
        ConflictError: a run published while embeddings were compacted; nothing has been removed.
    """
    folder, started = Folder(config.scores), time.monotonic()
    snapshot = live(config.scores)
    compacted = 0 if config.dry_run else _compact(folder, snapshot)
    old = numbers(folder)[: -config.keep]
    kept = [read_snapshot(folder, number) for number in numbers(folder)[-config.keep :]]
    surplus = _unreferenced(folder, kept, older_than=time.time() - seconds(config.keep_staged))
    if not config.dry_run:
        folder.delete([path_of(number) for number in old])
        folder.delete([entry.path for entry in surplus])
    facts = {"snapshots_removed": len(old), "files_removed": len(surplus), "bytes_removed": sum(e.size for e in surplus)}
    return {"job": "vacuum", **facts, "files_compacted": compacted, "seconds": round(time.monotonic() - started, 3)}


def _unreferenced(folder: Folder, kept: Sequence[Snapshot], older_than: float) -> list[Entry]:
    """Receipts come first: a file must never go before the receipt that names it."""
    named = {file.path for snapshot in kept for file in snapshot.files}
    entries = [
        Entry(f"{top}/{entry.path}", entry.size, entry.etag, entry.modified)
        for top in _TABLES
        for entry in (folder / top).entries()
    ]
    young = {entry.path for entry in entries if entry.modified > older_than}
    named |= {file.path for receipt in staged_receipts(folder) if receipt.path in young for file in receipt.files}
    surplus = [entry for entry in entries if entry.path not in named and entry.path not in young]
    return sorted(surplus, key=lambda entry: not entry.path.endswith(".json"))


def _compact(folder: Folder, snapshot: Snapshot) -> int:
    """A snapshot with the same scores is published whose embedding files of mostly dead runs hold live rows only; files rewritten."""
    per_run = Counter[str]()
    for file in snapshot.files_of("embeddings"):
        per_run[file.run] += file.rows
    alive = snapshot.manifest.get("runs", {})
    runs = {run for run, rows in per_run.items() if rows - alive.get(run, rows) > MOSTLY_DEAD * rows}
    if not runs:
        return 0
    old = [file for file in snapshot.files_of("embeddings") if file.run in runs]
    dead = dead_ids(folder, snapshot)
    new = [file for one in old for file in _without(folder, snapshot, one, dead)]
    kept = [file for file in snapshot.files if file.table != "dead" and file not in old]
    files = [*kept, *new, *_dead_of_others(folder, snapshot, set(per_run) - runs)]
    manifest = {name: value for name, value in snapshot.manifest.items() if name not in ("snapshot", "parent", "schema_version")}
    manifest |= {"files": [asdict(file) for file in files], "published_at": datetime.now(UTC).isoformat(timespec="seconds")}
    published = publish(folder, snapshot.number, {**manifest, "compacted": len(old), "consumed": []})
    logger.info("snapshot %d: %d embedding files rewritten as %d", published.number, len(old), len(new))
    return len(old)


def _without(folder: Folder, snapshot: Snapshot, file: DataFile, dead: Mapping[tuple[str, int], pa.Array]) -> list[DataFile]:
    """Live rows of an embedding file, in a new file."""
    with open_parquet(folder, file.path) as opened:
        rows = opened.read()
    for (run, page), ids in dead.items():
        if run == file.run:
            is_dead = pc.and_(pc.equal(rows.column("page"), page), pc.is_in(rows.column("illust_id"), ids))
            rows = rows.filter(pc.invert(is_dead))
    path = unique_path("embeddings", file.run)
    return [write_file(folder, "embeddings", path, rows.cast(snapshot.layout.embeddings))] if rows.num_rows else []


def _dead_of_others(folder: Folder, snapshot: Snapshot, runs: set[str]) -> list[DataFile]:
    """Dead keys of ``runs``, whose embedding files stay as they are, in new files."""
    schema = dead_schema(snapshot.layout.id_type)
    with engine() as connection:
        load(connection, "dead", schema, parquet_batches(folder, [f.path for f in snapshot.files_of("dead")], schema.names))
        sql = f"SELECT * FROM dead WHERE list_contains([{', '.join(repr(run) for run in sorted(runs))}]::VARCHAR[], run)"
        run = str(snapshot.manifest["run"])
        return [write_file(folder, "dead", unique_path("dead", run), rows) for rows in query(connection, sql, schema, 1_000_000)]
