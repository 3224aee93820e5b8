"""history: every snapshot of a scores folder in one table, newest first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pix2score.errors import DataError
from pix2score.snapshots.config import HistoryConfig
from pix2score.snapshots.manifest import parse_snapshot, published_times, read_manifests
from pix2score.snapshots.snapshot import Manifest
from pix2score.storage.folder import Folder
from pix2score.summaries import HistorySummary

COLUMNS = {
    "snapshot": "snapshot",
    "published": "published",
    "age": "age",
    "model_version": "model",
    "rows": "rows",
    "ok": "ok",
    "failed": "failed",
    "pending": "pending",
    "scored": "scored",
    "drift": "drift",
    "seconds": "seconds",
    "files_of": "files of",
    "note": "note",
}
"""Of the table, with their titles."""
_LEFT = ("published", "model", "drift", "files of", "note")
_NOTE_CHARS = 60
_AGES = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def history(config: HistoryConfig) -> HistorySummary:
    """The newest snapshots as plain values; ``show_history`` without its table."""
    return show_history(config, lambda _: None)


def show_history(config: HistoryConfig, say: Callable[[str], None]) -> HistorySummary:
    """Pass the lines of the table to ``say``, unless ``config.json``; return the same as plain values.

    Reads manifests only, side by side. One that this version cannot read is a row that says so.

    Raises ``DataError`` if there are no snapshots.
    """
    folder, started = Folder(config.scores), time.monotonic()
    times = published_times(folder)
    if not times:
        raise DataError(f"no scores at {config.scores}: expected snapshots/00000001.json there")
    newest = sorted(times, reverse=True)[: config.limit]
    rows = [_row(folder, number, data, times[number]) for number, data in read_manifests(folder, newest)]
    live = newest[0]
    if not config.json:
        for line in table([_shown(row, live, time.time()) for row in rows]):
            say(line)
        if len(newest) < len(times):
            say(f"and {len(times) - len(newest)} older ones")
    return {
        "job": "history",
        "live": live,
        "num_snapshots": len(times),
        "snapshots": rows,
        "seconds": round(time.monotonic() - started, 3),
    }


def _row(folder: Folder, number: int, data: bytes, modified: float) -> dict[str, Any]:
    """Facts of one snapshot; what is not known is None."""
    row: dict[str, Any] = {"snapshot": number, "published_at": _iso(modified)}
    try:
        manifest = parse_snapshot(folder, number, data).manifest
        return row | _facts(manifest)
    except (DataError, KeyError, TypeError, AttributeError) as exc:
        return row | {"error": str(exc) if isinstance(exc, DataError) else f"unreadable manifest: {exc!r}"}


def _facts(manifest: Manifest) -> dict[str, Any]:
    counts, compacted = manifest["counts"], manifest.get("compaction_of")
    rows, failed, pending = counts["rows"], counts["failed"], counts.get("pending", 0)
    restored = manifest.get("restored_from")
    # A compaction and a snapshot published again have the account of the run that scored their rows.
    account = None if compacted or restored else manifest.get("account")
    published = manifest.get("published_at")
    return {
        **({"published_at": published} if published else {}),
        "model_version": manifest["model_version"],
        "run": manifest["run"],
        "rows": rows,
        "ok": counts.get("ok", rows - failed - pending),
        "failed": failed,
        "pending": pending,
        **_of_run(account or {}),
        "restored_from": restored,
        "compaction_of": compacted[-1] if compacted else None,
        "published_by": manifest.get("published_by"),
        "note": manifest.get("note"),
    }


def _of_run(account: Mapping[str, Any]) -> dict[str, Any]:
    """What a run said of itself: rows scored, seconds without publishing, and the head that moved most."""
    seconds = account.get("seconds")
    drift = {head: psi for head, psi in (account.get("drift") or {}).items() if psi is not None}
    head = max(drift, key=lambda name: drift[name], default=None)
    return {
        "scored": account.get("scored"),
        "seconds": None if seconds is None else round(seconds + account.get("overhead_s", 0.0), 3),
        "drift": None if head is None else drift[head],
        "drift_head": head,
    }


def _shown(row: Mapping[str, Any], live: int, now: float) -> dict[str, str]:
    """A row for a person: local time and age; ``-`` for what is not known."""
    published = datetime.fromisoformat(row["published_at"])
    shown = {name: "-" if row.get(name) is None else str(row[name]) for name in COLUMNS}
    if row.get("drift") is not None:
        shown["drift"] = f"{row['drift']:.2f} {row['drift_head']}"
    if row.get("seconds") is not None:
        shown["seconds"] = f"{row['seconds']:.0f}"
    if row.get("restored_from"):
        shown["files_of"] = str(row["restored_from"])
    elif row.get("compaction_of"):
        shown["files_of"] = f"{row['compaction_of']}, compacted"
    return shown | {
        "snapshot": f"{row['snapshot']} {'live' if row['snapshot'] == live else '    '}",
        "published": published.astimezone().strftime("%Y-%m-%d %H:%M"),
        "age": age_text(now - published.timestamp()),
        "note": _short(str(row.get("note") or row.get("error") or "-")),
    }


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _NOTE_CHARS else f"{line[: _NOTE_CHARS - 1]}…"


def age_text(age_s: float) -> str:
    """``3 d``, ``5 h``, ``12 min`` or ``40 s``, rounded down."""
    size, unit = next(((size, unit) for size, unit in _AGES if age_s >= size), (1, "s"))
    return f"{max(0, int(age_s // size))} {unit}"


def table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Lines with a title, columns padded: numbers to the right, words to the left."""
    titled: list[Mapping[str, str]] = [COLUMNS, *rows]
    widths = {name: max(len(row[name]) for row in titled) for name in COLUMNS}
    return [
        "  ".join(
            row[name].ljust(widths[name]) if title in _LEFT else row[name].rjust(widths[name])
            for name, title in COLUMNS.items()
        ).rstrip()
        for row in titled
    ]


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
