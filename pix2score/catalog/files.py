"""Which files are a catalog: the Parquet files of a place, whatever they are called, links followed; and what
a place is that holds none.

In a folder, the Parquet files of its top level are the catalog; only if there are none, those of its
subfolders: images may lie below. Left out are hidden names, those that begin with ``_``, and the folders that
pix2score itself writes.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from pix2score.catalog.absent import absent_catalog, named_scheme, not_parquet
from pix2score.catalog.guards import own_folders, refuse_table, refuse_unfinished
from pix2score.errors import DataError
from pix2score.storage.folder import Entry, Folder, entry_of
from pix2score.storage.places import is_s3, means_no_bucket, named_errors

logger = logging.getLogger(__name__)
_NAMED = re.compile(r"\.(parquet|pq|parq)$", re.IGNORECASE)
_SET_ASIDE = re.compile(r"(\.(bak|old|orig|disabled|crc|md5|sha256)|~)$", re.IGNORECASE)
_MAGIC = b"PAR1"
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
MAX_LOOKED_INTO = 10_000
"""Files without a known ending whose first bytes are read to see whether they are Parquet."""


@dataclass
class Listing:
    """What stands in a folder: visible objects, and the names that are left out or are folders, relative to
    it."""

    files: list[Entry] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    """Folders that were not looked into."""
    hidden: list[str] = field(default_factory=list)
    """Paths up to their first part that begins with ``_`` or ``.``."""
    linked: set[str] = field(default_factory=set)
    """Those of ``files`` that were reached over a link."""

    @property
    def names(self) -> list[str]:
        """Every path."""
        return [*(entry.path for entry in self.files), *self.folders, *self.hidden]


def find_files(place: str) -> tuple[Folder, list[Entry]]:
    """The folder of the catalog at ``place`` and its files, sorted by path. Raises ``DataError`` saying what
    stands there instead."""
    named_scheme(place)
    whole = Folder(place)
    if whole.is_file():
        folder, entry = whole.parent, whole.parent.entry(whole.name)
        refuse_table(folder, [])
        _check_single(folder, entry)
        return folder, [entry]
    top = _top(whole)
    files = _parquet_of(whole, top)
    listing = top if files else _everything(whole)
    refuse_table(whole, [*top.names, *listing.names])
    listing = _without_own(whole, listing) if not files else listing
    files = files or _parquet_of(whole, listing)
    refuse_unfinished(whole, [*listing.names, *top.hidden], files)
    if not files:
        raise absent_catalog(place, whole, listing.files)
    if listing is top:
        _warn_of_partitions(whole, top)
    return whole, _without_second_ways(whole, listing, files)


def relist(folder: Folder, files: Sequence[Entry]) -> dict[str, Entry]:
    """What stands today at the paths of ``files``: one listing where there are many of them on S3."""
    if not is_s3(folder.uri) or len(files) <= 8:
        return {
            entry.path: entry for path in (e.path for e in files) for entry in _entry_or_none(folder, path)
        }
    nested = any("/" in entry.path for entry in files)
    return {entry.path: entry for entry in (folder.entries() if nested else folder.top_entries())}


def hive_values(path: str) -> dict[str, str | None]:
    """Columns that the folders of ``path`` name as Hive, Spark and pandas do (``artist_id=7/``): their texts,
    None for null."""
    parts = [part.partition("=") for part in path.split("/")[:-1] if "=" in part]
    return {unquote(name): None if value == HIVE_NULL else unquote(value) for name, _, value in parts if name}


def _entry_or_none(folder: Folder, path: str) -> Iterator[Entry]:
    try:
        yield folder.entry(path)
    except FileNotFoundError:
        return


def _top(folder: Folder, below: str = "", *, is_linked: bool = False) -> Listing:
    """One level of a folder, links resolved."""
    with named_errors(folder.uri):
        try:
            found = folder.fs.ls(folder.full(below), detail=True)
        except (FileNotFoundError, NotADirectoryError) as exc:
            if means_no_bucket(exc):
                raise
            return Listing()
    listing = Listing()
    root = folder.fs._strip_protocol(folder.uri).rstrip("/") + "/"
    for info in sorted(found, key=lambda info: str(info["name"])):
        path = str(info["name"]).rstrip("/").removeprefix(root)
        name = path.rpartition("/")[2]
        if not name or path == below or name.startswith(".tmp-"):
            continue
        if name.startswith(("_", ".")):
            listing.hidden.append(path)
        elif info["type"] == "directory":
            listing.folders.append(path)
        elif info.get("islink"):
            _add_link(listing, folder, path)
        elif info["type"] == "file":
            listing.files.append(entry_of(str(info["name"]), info, root))
            listing.linked |= {path} if is_linked else set()
    return listing


def _add_link(listing: Listing, folder: Folder, path: str) -> None:
    place = folder.full(path)
    if os.path.isdir(place):
        listing.folders.append(path)
    elif os.path.isfile(place):
        listing.files.append(folder.entry(path))
        listing.linked.add(path)
    elif not os.path.exists(place) and (
        _NAMED.search(path) or "." not in path.rpartition("/")[2] or "=" in path
    ):
        raise DataError(
            f"{place} is a link to {os.readlink(place)}, where nothing stands: a part of the catalog is "
            "missing"
        )


def _everything(folder: Folder) -> Listing:
    """All levels of a folder: on S3 in one listing, on a disk folder by folder, over links too."""
    if not is_s3(folder.uri):
        listing = Listing()
        _walk(folder, "", (os.path.realpath(folder.uri),), listing)
        return listing
    listing = Listing()
    hidden: set[str] = set()
    for entry in folder.entries():
        parts = entry.path.split("/")
        first = next((i for i, part in enumerate(parts) if part.startswith(("_", "."))), None)
        if first is None:
            listing.files.append(entry)
        else:
            hidden.add("/".join(parts[: first + 1]))
    listing.hidden = sorted(hidden)
    return listing


def _walk(
    folder: Folder, below: str, above: tuple[str, ...], listing: Listing, *, is_linked: bool = False
) -> None:
    """Adds what stands below a folder of a disk; ``above``: real paths of the folders that lead there, so
    that a loop of links ends."""
    level = _top(folder, below, is_linked=is_linked)
    listing.files += level.files
    listing.hidden += level.hidden
    listing.linked |= level.linked
    for path in level.folders:
        real = os.path.realpath(folder.full(path))
        if real in above:
            logger.info("%s is a link to a folder that holds it and is not followed", folder.full(path))
        else:
            _walk(
                folder,
                path,
                (*above, real),
                listing,
                is_linked=is_linked or os.path.islink(folder.full(path)),
            )


def _parquet_of(folder: Folder, listing: Listing) -> list[Entry]:
    """The Parquet files of a listing: by name, those without a telling name by their first bytes, and folders
    called ``*.parquet``."""
    named = [entry for entry in listing.files if _NAMED.search(entry.path)]
    for path in listing.folders:
        if _NAMED.search(path):
            named += _inside(folder, path)
    taken = [*named, *_by_content(folder, listing.files, is_any_named=bool(named))]
    return sorted({entry.path: entry for entry in taken}.values(), key=lambda entry: entry.path)


def _inside(folder: Folder, path: str) -> list[Entry]:
    """Spark writes a folder where one asks for a file ``x.parquet``."""
    found = _everything(folder / path)
    inner = [Entry(f"{path}/{entry.path}", entry.size, entry.etag, entry.modified) for entry in found.files]
    refuse_table(folder, [f"{path}/{name}" for name in found.names])
    files = [*(entry for entry in inner if _NAMED.search(entry.path))]
    files += _by_content(folder, inner, is_any_named=bool(files))
    refuse_unfinished(folder, [f"{path}/{name}" for name in found.names], files)
    return files


def _by_content(folder: Folder, files: Sequence[Entry], *, is_any_named: bool) -> list[Entry]:
    """Files whose names say nothing of their kind and whose content is Parquet; a compressed one is
    refused."""
    unsure = [entry for entry in files if _may_be_parquet(entry.path) and entry.size >= 12]
    aside = [
        entry.path
        for entry in files
        if _SET_ASIDE.search(entry.path) and re.search(r"\.(parquet|pq|parq)\b", entry.path, re.I)
    ]
    if aside and is_any_named:
        logger.warning(
            "left out of the catalog by their names: %s",
            ", ".join(aside[:5]) + (" …" if len(aside) > 5 else ""),
        )
    heads = _first_bytes(folder, unsure[:64] if is_any_named or len(unsure) > MAX_LOOKED_INTO else unsure)
    if len(heads) < len(unsure) and any(head == _MAGIC for head in heads.values()):
        heads = _first_bytes(folder, unsure)
    for path, head in heads.items():
        if "parquet" in path.lower() and head != _MAGIC:
            raise DataError(
                f"{folder.full(path)} is named as Parquet but {not_parquet(head)}; unpack it, or move it out "
                "of the catalog's folder"
            )
    return [entry for entry in unsure if heads.get(entry.path) == _MAGIC]


def _may_be_parquet(path: str) -> bool:
    name = path.rpartition("/")[2]
    if (
        _NAMED.search(name)
        or _SET_ASIDE.search(name)
        or re.search(r"\.(tmp|temp|part|partial|inprogress\S*)$", name, re.I)
    ):
        return False
    return "." not in name or bool(re.search(r"^part-?\d|\.(parquet|pq|parq)\.", name, re.I))


def _first_bytes(folder: Folder, entries: Sequence[Entry]) -> dict[str, bytes]:
    if not entries:
        return {}
    places = [folder.full(entry.path) for entry in entries]
    with named_errors(folder.uri):
        found = folder.fs.cat_ranges(places, 0, 4, on_error="return")
    return {entry.path: head for entry, head in zip(entries, found, strict=True) if isinstance(head, bytes)}


def _check_single(folder: Folder, entry: Entry) -> None:
    head = _first_bytes(folder, [entry]).get(entry.path, b"")
    if entry.size >= 12 and head != _MAGIC:
        raise DataError(
            f"{folder.full(entry.path)} is not a Parquet file: it "
            f"{not_parquet(head, folder.full(entry.path))}"
        )


def _without_own(folder: Folder, listing: Listing) -> Listing:
    """A listing without the scores folders, datasets and models that pix2score wrote there."""
    own = own_folders(listing.names)
    if "" in own:
        raise DataError(f"{folder.uri} is {own['']}, not a catalog: give the catalog that it was made from")
    if not own:
        return listing
    logger.info(
        "not part of the catalog: %s",
        ", ".join(f"{folder.full(path)} ({what})" for path, what in own.items()),
    )

    def is_own(path: str) -> bool:
        return any(path == top or path.startswith(f"{top}/") for top in own)

    return Listing(
        [entry for entry in listing.files if not is_own(entry.path)],
        [path for path in listing.folders if not is_own(path)],
        [path for path in listing.hidden if not is_own(path)],
        listing.linked,
    )


def _without_second_ways(folder: Folder, listing: Listing, files: list[Entry]) -> list[Entry]:
    """Files of which a link is a second way to another one of them stand once: as themselves."""
    if not listing.linked:
        return files
    real: dict[str, Entry] = {}
    for entry in sorted(files, key=lambda entry: (entry.path in listing.linked, entry.path)):
        real.setdefault(os.path.realpath(folder.full(entry.path)), entry)
    return sorted(real.values(), key=lambda entry: entry.path)


def _warn_of_partitions(folder: Folder, top: Listing) -> None:
    surplus = [path for path in top.folders if "=" in path]
    if surplus:
        logger.warning(
            "%s holds Parquet files at its top, so these folders are left out: %s",
            folder.uri,
            ", ".join(_shortened(surplus)),
        )


def _shortened(names: Iterable[str], most: int = 5) -> list[str]:
    listed = list(names)
    return [*listed[:most], f"… ({len(listed)} in all)"] if len(listed) > most else listed
