"""Numbered snapshots: the manifests that say which files are live, how one becomes live, how readers see it.

A manifest created if absent is the whole commit. ``tables`` says what the files hold.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, groupby
from typing import Any

from pix2score.errors import ConflictError, DataError
from pix2score.snapshots.lists import (
    CONSUMED,
    are_many,
    list_from_dict,
    plain_lists,
    write_lists,
)
from pix2score.snapshots.snapshot import Manifest, Snapshot
from pix2score.snapshots.tables import (
    LISTED_VERSION,
    READABLE_VERSIONS,
    SCHEMA_VERSION,
)
from pix2score.storage.folder import Folder

SNAPSHOTS = "snapshots"
REMOVED = b'{"removed": "by jobs.vacuum"}'
"""In place of the manifest of a removed snapshot, and known by its size: a manifest is never so short."""
SEAL = "sha256"
OF_PUBLICATION = ("compacted", "compaction_of", "restored_from", "published_by", "note", SEAL)
"""What a manifest says of its own publication: another one with the same scores says its own."""
_READ_AT_ONCE = 64  # manifests of a night of 10 M images are some 250 kB


def new_run_id(now: str) -> str:
    """A name never used before that sorts by time; ``now`` as 20261121T080000."""
    return f"{now}-{uuid.uuid4().hex[:8]}"


def publish(folder: Folder, parent: int, facts: Mapping[str, Any]) -> Snapshot:
    """Make the snapshot after ``parent`` live, whose manifest holds ``facts``; return it.

    ``facts`` name their ``schema_version`` where their files are of an earlier one.

    Raises ``ConflictError`` if another run made that number first.
    """
    draft = drafted(parent, facts)
    content = _with_lists(folder, parent, {**draft.manifest})
    data = sealed(content)
    try:
        folder.publish(path_of(draft.number), data)
    except FileExistsError:
        raise conflict(folder, draft.number) from None
    return Snapshot(draft.number, json.loads(data), folder)


def sealed(content: Mapping[str, Any]) -> bytes:
    """A manifest as it is stored: behind all else the SHA-256 of its bytes, where zeros stand in its place.

    It names the hash of every file, and no file names its own.
    """
    empty = "0" * 64
    data = json.dumps({**content, SEAL: empty}, indent=1, ensure_ascii=False).encode()
    before, _, after = data.rpartition(empty.encode())
    return before + hashlib.sha256(data).hexdigest().encode() + after


def is_as_published(data: bytes, manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest with these bytes is as ``publish`` wrote it.

    True of those of earlier versions, of which that is not known.
    """
    found = manifest.get(SEAL)
    if not isinstance(found, str):
        return not {*manifest} - {*Manifest.__annotations__}  # nor is a damaged name taken for that
    before, seal, after = data.rpartition(found.encode())
    return bool(seal) and hashlib.sha256(before + b"0" * 64 + after).hexdigest() == found


def _with_lists(folder: Folder, parent: int, content: dict[str, Any]) -> dict[str, Any]:
    """A manifest whose files and receipts are in lists if they are many; those written before stay.

    A table of an earlier schema has none: its version says what its columns are.
    """
    if "files" not in content or content["schema_version"] < SCHEMA_VERSION:
        return content
    earlier = [one for one in map(list_from_dict, content.pop("lists", ())) if one.table == CONSUMED]
    consumed = content.get("consumed", [])
    if not earlier and not are_many(content["files"], consumed):
        is_listed = content["schema_version"] == LISTED_VERSION
        return content | ({"schema_version": SCHEMA_VERSION} if is_listed else {})
    known = read_snapshot(folder, parent).lists if parent else ()
    made = write_lists(folder, str(content["run"]), content.pop("files"), consumed, known)
    content.pop("consumed", None)
    return content | {"schema_version": LISTED_VERSION, "lists": plain_lists([*made, *earlier])}


def drafted(parent: int, facts: Mapping[str, Any]) -> Snapshot:
    """The snapshot after ``parent`` as it would be published, with ``facts`` in its manifest."""
    content: Any = {
        "snapshot": parent + 1,
        "parent": parent or None,
        "schema_version": SCHEMA_VERSION,
        **facts,
    }
    return Snapshot(parent + 1, content)


def without_publication(snapshot: Snapshot) -> dict[str, Any]:
    """Facts of ``snapshot`` for another manifest with the same scores: all but those of its publication."""
    left_out = ("snapshot", "parent", *OF_PUBLICATION)
    return {name: value for name, value in snapshot.manifest.items() if name not in left_out}


def conflict(folder: Folder, number: int) -> ConflictError:
    """The error of a run that another one overtook."""
    return ConflictError(f"another run published snapshot {number} of {folder.uri} first: run again")


def path_of(number: int) -> str:
    """Where the manifest of a snapshot is."""
    return f"{SNAPSHOTS}/{number:08}.json"


def numbers(folder: Folder) -> list[int]:
    """Numbers of all snapshots that still exist, ascending."""
    return sorted(published_times(folder))


def published_times(folder: Folder) -> dict[int, float]:
    """Number of each snapshot that still exists -> when it was published, by the storage's clock."""
    found = [
        (entry.path.removesuffix(".json"), entry.modified)
        for entry in (folder / SNAPSHOTS).top_entries(suffix=".json")
        if entry.size != len(REMOVED)
    ]
    return {int(name): modified for name, modified in found if name.isdigit()}


def ranges_text(numbers: Sequence[int]) -> str:
    """Ascending numbers for a person: ``1-3, 7, 9-44``; ``none`` if there are none."""
    steps = count()
    runs = [list(run) for _, run in groupby(numbers, key=lambda number: number - next(steps))]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs) or "none"


def remove_manifests(folder: Folder, old: Sequence[int]) -> None:
    """Remove snapshots ``old``.

    ``REMOVED`` stays at each number, so that no run that was overtaken long ago can create it again and
    believe that it published.
    """
    for number in old:
        folder.publish(path_of(number), REMOVED, replace=True)


def live_number(folder: Folder) -> int:
    """Number of the live snapshot, 0 if there is none."""
    return max(numbers(folder), default=0)


def live(place: str) -> Snapshot:
    """The live snapshot of a scores folder.

    Raises:
        DataError: no snapshot there, or its manifest is not one of a known version.
    """
    folder = Folder(place)
    number = live_number(folder)
    if not number:
        raise DataError(f"no scores at {place}: expected snapshots/00000001.json there")
    return read_snapshot(folder, number)


def read_snapshot(folder: Folder, number: int) -> Snapshot:
    """Snapshot ``number``. Raises ``DataError`` if it is removed, or not a manifest of a known version."""
    try:
        data = folder.read(path_of(number))
    except FileNotFoundError:
        data = REMOVED
    if data == REMOVED:
        raise DataError(
            f"there is no snapshot {number} in {folder.uri}; those that there are: "
            f"{ranges_text(numbers(folder))}"
        )
    return parse_snapshot(folder, number, data)


def read_manifests(folder: Folder, numbers: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """Number and manifest of snapshots in the given order, fetched side by side; not of those removed."""
    for start in range(0, len(numbers), _READ_AT_ONCE):
        some = numbers[start : start + _READ_AT_ONCE]
        found = folder.read_many([path_of(number) for number in some])
        for number in some:
            data = found.get(path_of(number), REMOVED)
            if data != REMOVED:
                yield number, data


def parse_snapshot(folder: Folder, number: int, data: bytes) -> Snapshot:
    """The snapshot whose manifest is ``data``. Raises ``DataError`` if it is not one of a known version."""
    where = folder.full(path_of(number))
    try:
        manifest = json.loads(data)
        version = manifest["schema_version"]
    except (ValueError, KeyError, TypeError) as exc:
        raise DataError(f"{where} is not a snapshot manifest: {exc!r}") from None
    if version not in READABLE_VERSIONS:
        raise DataError(
            f"{where} has schema version {version}; this version of pix2score reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}"
        )
    return Snapshot(number, manifest, folder)
