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
from urllib.parse import unquote_to_bytes

from pix2score.catalog.absent import absent_catalog, named_scheme, not_parquet
from pix2score.catalog.guards import own_folders, refuse_table, refuse_unfinished
from pix2score.catalog.listing import NAMED, Listing, all_levels, top_level
from pix2score.errors import DataError
from pix2score.storage.folder import Entry, Folder
from pix2score.storage.places import is_remote, named_errors
from pix2score.storage.sql import side_by_side

logger = logging.getLogger(__name__)
_SET_ASIDE = re.compile(r"(\.(bak|old|orig|disabled|crc|md5|sha256)|~)$", re.IGNORECASE)
_MAGIC = b"PAR1"
MAX_TOPS = 256
"""Folders that are listed one by one: of more, one listing of everything is fewer requests."""
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
MAX_LOOKED_INTO = 10_000
"""Files without a known ending whose first bytes are read to see whether they are Parquet."""


def find_files(place: str) -> tuple[Folder, list[Entry]]:
    """The folder of the catalog at ``place`` and its files, sorted by path.

    Raises ``DataError`` saying what is there instead.
    """
    named_scheme(place)
    whole = Folder(place)
    if whole.is_file():
        folder, entry = whole.parent, whole.parent.entry(whole.name)
        refuse_table(folder, [])
        _check_single(folder, entry)
        return folder, [entry]
    top = top_level(whole)
    files = _parquet_of(whole, top)
    listing = top if files else all_levels(whole)
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
    """What is today at the paths of ``files``: where they are many in a store, what is listed beside them.

    Only of those folders at the top that hold some: the pictures of a catalog are often in another.
    """
    if not is_remote(folder.uri) or len(files) <= 8:
        return {
            entry.path: entry for path in (e.path for e in files) for entry in _entry_or_none(folder, path)
        }
    tops = {entry.path.partition("/")[0] if "/" in entry.path else "" for entry in files}
    if len(tops) > MAX_TOPS:
        return {entry.path: entry for entry in folder.entries()}
    found = side_by_side(lambda top: folder.entries(top) if top else folder.top_entries(), sorted(tops))
    return {entry.path: entry for entries in found for entry in entries}


def hive_values(path: str) -> dict[str, str | None]:
    """Columns that the folders of ``path`` name as Hive, Spark and pandas do (``artist_id=7/``): their texts,
    None for null, ``\\xNN`` for each byte that is no UTF-8."""
    parts = [part.partition("=") for part in path.split("/")[:-1] if "=" in part]
    return {
        _decoded(name): None if value == HIVE_NULL else _decoded(value) for name, _, value in parts if name
    }


def _decoded(part: str) -> str:
    return unquote_to_bytes(part.encode("utf-8", "surrogateescape")).decode("utf-8", "backslashreplace")


def _entry_or_none(folder: Folder, path: str) -> Iterator[Entry]:
    try:
        yield folder.entry(path)
    except FileNotFoundError:
        return


def _parquet_of(folder: Folder, listing: Listing) -> list[Entry]:
    """The Parquet files of a listing: by name, those without a telling name by their first bytes, and folders
    called ``*.parquet``."""
    named = [entry for entry in listing.files if NAMED.search(entry.path)]
    for path in listing.folders:
        if NAMED.search(path):
            named += _inside(folder, path)
    taken = [*named, *_by_content(folder, listing.files, is_any_named=bool(named))]
    return sorted({entry.path: entry for entry in taken}.values(), key=lambda entry: entry.path)


def _inside(folder: Folder, path: str) -> list[Entry]:
    """Spark writes a folder where one asks for a file ``x.parquet``."""
    found = all_levels(folder / path)
    inner = [Entry(f"{path}/{entry.path}", entry.size, entry.etag, entry.modified) for entry in found.files]
    refuse_table(folder, [f"{path}/{name}" for name in found.names])
    files = [*(entry for entry in inner if NAMED.search(entry.path))]
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
        NAMED.search(name)
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
    """Files of which a link is a second way to another one of them count once: as themselves."""
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
