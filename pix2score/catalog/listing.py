"""What is in a folder where a catalog may be: one level or all, links followed, on a disk and in a store."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field

from pix2score.errors import DataError
from pix2score.storage.folder import Entry, Folder, entry_of
from pix2score.storage.places import is_remote, means_no_bucket, named_errors

logger = logging.getLogger(__name__)
NAMED = re.compile(r"\.(parquet|pq|parq)$", re.IGNORECASE)
"""Names that Parquet files have."""


@dataclass
class Listing:
    """A folder: its visible objects, and the names that are left out or are folders, relative to it."""

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


def top_level(folder: Folder, below: str = "", *, is_linked: bool = False) -> Listing:
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
        NAMED.search(path) or "." not in path.rpartition("/")[2] or "=" in path
    ):
        raise DataError(
            f"{place} is a link to {os.readlink(place)}, where nothing stands: a part of the catalog is "
            "missing"
        )


def all_levels(folder: Folder) -> Listing:
    """All levels of a folder: in a store in one listing, on a disk folder by folder, over links too."""
    if not is_remote(folder.uri):
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
    """Add what is below a folder of a disk; ``above``: real paths of the folders that lead there, so
    that a loop of links ends."""
    level = top_level(folder, below, is_linked=is_linked)
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
