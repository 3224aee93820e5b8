"""Which target the settings name. Its library is imported when it is asked for."""

from __future__ import annotations

from pix2score.errors import ConfigError
from pix2score.push.config import DELTA, LANCEDB, PushConfig
from pix2score.push.target import Target
from pix2score.storage.folder import Folder


def open_target(config: PushConfig) -> Target:
    """The target that ``config.to`` names.

    Raises ``TargetError`` if it is not to be reached, ``AccessError`` or ``DataError`` for a place that may
    not be, or whose bucket is not there.
    """
    if config.to.startswith(LANCEDB):
        from pix2score.push.lancedb_table import LanceTable

        return LanceTable(_place(config, LANCEDB), config.table)
    if config.to.startswith(DELTA):
        from pix2score.push.delta_table import DeltaTarget

        return DeltaTarget(_place(config, DELTA))
    from pix2score.push.postgres import PostgresTable

    return PostgresTable(config.to, config.table)


def _place(config: PushConfig, kind: str) -> str:
    """Raises ``ConfigError`` where a table and the scores would lie in each other: who cleans up one of them
    would remove of the other."""
    place = config.to.removeprefix(kind)
    if not place:
        raise ConfigError(f"to {config.to!r} names no place: {kind}/path or {kind}s3://bucket/prefix")
    folder, scores = Folder(place), Folder(config.scores).uri
    if _is_below(folder.uri, scores) or (kind == DELTA and _is_below(scores, folder.uri)):
        raise ConfigError(f"to {kind}{folder.uri}: a table and the scores ({scores}) want a folder each")
    (folder / "nothing").top_entries()  # a refusal is told in plainer words than the table's library has
    return folder.uri


def _is_below(place: str, top: str) -> bool:
    return f"{place.rstrip('/')}/".startswith(f"{top.rstrip('/')}/")
