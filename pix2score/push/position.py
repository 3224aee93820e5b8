"""How far a target is: of which snapshot its rows are, and up to which key.

It is kept in the target. A push that was killed is taken up behind the last key that it wrote.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from pix2score.catalog.keys import Key
from pix2score.errors import ConfigError, DataError
from pix2score.snapshots.manifest import live, read_snapshot
from pix2score.snapshots.snapshot import Snapshot
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)
VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """What a target holds: rows of ``snapshot`` up to the key ``after``, behind it rows of ``base``."""

    scores: str
    """The scores folder."""
    snapshot: int
    manifest: str
    """``fingerprint`` of its manifest: another folder, or one that was made anew, has another."""
    columns: dict[str, str]
    """Name -> type of the table's columns."""
    base: int = 0
    """0: whatever was there before; every row is sent."""
    base_manifest: str = ""
    after: Key | None = None
    """None: nothing was written yet, or all."""
    done: bool = False

    def to_json(self) -> str:
        """As it is kept in the target: ASCII, whatever the encoding of a database is."""
        return json.dumps({"version": VERSION, **asdict(self)})


def position_from_json(text: str, where: str) -> Position:
    """The position that ``to_json`` wrote. Raises ``DataError`` naming ``where`` it is, if it is none."""
    try:
        plain = json.loads(text)
        if plain.pop("version") != VERSION:
            raise DataError(f"the position in {where} was written by a later version of pix2score")
        after = plain.pop("after")
        return Position(**plain, after=None if after is None else (after[0], int(after[1])))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as exc:
        raise DataError(
            f"the position in {where} cannot be read ({exc!r}): --recreate makes it anew"
        ) from None


def as_unknown(position: Position) -> Position:
    """The position of a table that may hold anything: all rows of its snapshot are sent once more, and what
    else it holds is deleted."""
    return replace(position, base=0, base_manifest="", after=None, done=False)


@dataclass(frozen=True, slots=True)
class Step:
    """From the rows of one snapshot to those of another."""

    base: Snapshot | None
    """None: every row is sent, and what else the target holds is deleted."""
    to: Snapshot
    after: Key | None = None
    """Rows up to this key are written already."""

    def position(self, scores: str, schema: pa.Schema) -> Position:
        """Of a target that is as far as this step is."""
        return Position(
            scores=scores,
            snapshot=self.to.number,
            manifest=fingerprint(self.to),
            columns=columns_of(schema),
            base=self.base.number if self.base else 0,
            base_manifest=fingerprint(self.base) if self.base else "",
            after=self.after,
        )


def next_step(folder: Folder, position: Position | None, full: bool) -> Step | None:
    """What brings a target from ``position`` nearer to the live snapshot; None if it is there.

    Raises ``ConfigError`` if it holds what was pushed from another scores folder.
    """
    newest = live(folder.uri)
    if position is None or full:
        return Step(None, newest)
    held = _known(folder, position.snapshot, position.manifest)
    if held is None and position.scores != folder.uri:
        raise ConfigError(
            f"the table holds rows of another scores folder, {position.scores}, not of {folder.uri}: give "
            "another table, or --recreate"
        )
    base = _known(folder, position.base, position.base_manifest) if position.base else None
    if held is None or (not position.done and position.base and base is None):
        gone = position.base if held else position.snapshot
        logger.warning(
            "snapshot %d, of which the table's rows are, is there no more: all rows are sent, and what else "
            "the table holds is deleted", gone,
        )  # fmt: skip
        return Step(None, newest)
    if not position.done:
        return Step(base, held, position.after)
    return Step(held, newest) if held.number != newest.number else None


def _known(folder: Folder, number: int, manifest: str) -> Snapshot | None:
    """Snapshot ``number`` if it is there, and the one that is meant."""
    try:
        found = read_snapshot(folder, number)
    except DataError:
        return None
    return found if fingerprint(found) == manifest else None


def fingerprint(snapshot: Snapshot) -> str:
    """What tells a manifest from every other one: run, files and their hashes are in it."""
    plain = json.dumps(snapshot.manifest, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(plain.encode(errors="surrogatepass")).hexdigest()[:32]


def columns_of(schema: pa.Schema) -> dict[str, str]:
    """Name -> type, as text."""
    return {field.name: str(field.type) for field in schema}
