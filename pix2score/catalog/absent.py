"""What is at a place that is no catalog, and how to make one of it: one line for the user."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence

from pix2score.errors import ConfigError, DataError
from pix2score.storage.folder import Entry, Folder
from pix2score.storage.places import PLACES, canonical, is_remote

_PICTURES = {
    **dict.fromkeys(("jpg", "jpeg", "jpe", "jfif"), "JPEG"),
    **dict.fromkeys(("tif", "tiff"), "TIFF"),
    **{
        name: name.upper()
        for name in ("png", "webp", "gif", "bmp", "avif", "heic", "jxl", "jp2", "ico", "psd", "svg")
    },
}
_COPY = "python -c \"import duckdb; duckdb.sql('''COPY (FROM {reader}) TO 'catalog.parquet' ''')\""
_ARROW = (
    "python -c \"import pyarrow.parquet as pq, pyarrow.feather as f; pq.write_table(f.read_table('{}'), "
    "'catalog.parquet')\" makes one"
)
_OF_PICTURES = (
    "a catalog names them by illust_id and uri: python -m jobs.catalog --images {place} --out "
    "{place}/catalog.parquet makes one"
)
_OF_ARCHIVES = (
    "no need to unpack them: python -m jobs.catalog --archives --images FOLDER --out CATALOG makes a catalog "
    "of the pictures inside"
)
_KINDS: tuple[tuple[str, str, str], ...] = (
    (r"\.(csv|tsv|txt)(\.gz|\.zst)?$", "CSV", f"{_COPY.format(reader='read_csv({!r})')} makes one"),
    (r"\.(jsonl|ndjson)(\.gz|\.zst)?$", "JSON lines", f"{_COPY.format(reader='read_json({!r})')} makes one"),
    (
        r"\.json(\.gz)?$",
        "JSON",
        f"{_COPY.format(reader='read_json({!r})')} makes one, if it is a list of objects",
    ),
    (
        r"\.(tar|tgz|tar\.gz)$",
        "tar (WebDataset)",
        _OF_ARCHIVES,
    ),
    (
        r"\.zip$",
        "ZIP",
        _OF_ARCHIVES,
    ),
    (
        r"\.(7z|rar)$",
        "archive",
        "unpack it, then python -m jobs.catalog makes a catalog of the pictures",
    ),
    (r"\.(arrow|feather|ipc)$", "Arrow", _ARROW),
    (
        r"\.(db|sqlite3?|duckdb|ducklake)$",
        "database",
        "export the table: duckdb.sql(\"COPY (FROM the_table) TO 'catalog.parquet'\")",
    ),
    (
        r"\.(orc|avro|xlsx?|lance|h5|hdf5|npz|npy|pkl|pickle)$",
        "data",
        "write it as Parquet with the columns illust_id and uri",
    ),
)
_MAGIC = (
    (b"\x89PNG", "is a picture (PNG)"),
    (b"\xff\xd8\xff", "is a picture (JPEG)"),
    (b"GIF8", "is a picture (GIF)"),
    (b"RIFF", "is a picture (WebP)"),
    (b"\x1f\x8b", "is compressed as a whole (gzip)"),
    (b"\x28\xb5\x2f\xfd", "is compressed as a whole (zstd)"),
    (b"BZh", "is compressed as a whole (bzip2)"),
    (b"PK\x03\x04", "is a zip archive"),
    (b"ARRO", "is an Arrow file"),
    (b"SQLi", "is a SQLite database"),
    (b"PARE", "is a Parquet file with an encrypted footer"),
    (b"ORC", "is an ORC file"),
    (b"Obj\x01", "is an Avro file"),
    (b"vers", "is a pointer of Git LFS or DVC, not the file itself: pull it first"),
)


class AbsentError(DataError):
    """No Parquet file is at a place, and no table that is not read."""


def named_scheme(place: str) -> None:
    """Raise ``ConfigError`` for a place of a kind that is not read, saying what to do with it."""
    scheme, found, rest = place.partition("://")
    if not found or is_remote(canonical(place)):
        return
    advice = {
        "hf": (
            f"download it first: hf download --repo-type dataset {'/'.join(rest.split('/')[1:3])} "
            "--local-dir DIR, then --catalog DIR"
        ),
        "file": f"give the plain path {rest!r}",
        "s3a": f"write s3://{rest}",
        "s3n": f"write s3://{rest}",
    }.get(scheme, "copy it to a local folder or to a store (or mount it), then give that")
    raise ConfigError(f"catalog {place}: only a local path or {PLACES} is read, not {scheme}://; {advice}")


def not_parquet(head: bytes, path: str = "") -> str:
    """What the first bytes of a file say that it is, and for a single file how a catalog is made of it."""
    what = next((words for magic, words in _MAGIC if head.startswith(magic)), "begins with " + repr(head)[1:])
    for pattern, kind, recipe in _KINDS:
        if path and re.search(pattern, path, re.IGNORECASE):
            return f"is {kind} by its name and not Parquet; {_filled(recipe, path)}"
    if path and "picture" in what:
        return (
            f"{what}; --catalog wants a list of pictures: a Parquet file with the columns illust_id and uri"
        )
    return what


def absent_catalog(place: str, folder: Folder, files: Sequence[Entry]) -> AbsentError:
    """The error for a place without a Parquet file: what is there instead, and how to make a catalog of
    it."""
    expected = f"no catalog at {place}: expected a Parquet file or a folder with *.parquet files"
    if not files:
        glob = "; patterns are not expanded: give the folder" if re.search(r"[*?\[]", place) else ""
        return AbsentError(f"{expected}; nothing stands there{glob}")
    for pattern, kind, recipe in _KINDS:
        found = [entry.path for entry in files if re.search(pattern, entry.path, re.IGNORECASE)]
        if found and not (kind == "CSV" and all(path.endswith(".txt") for path in found)):
            return AbsentError(
                f"{expected}; there are {len(found)} {kind} files, such as {found[0]}; "
                f"{_filled(recipe, folder.full(found[0]))}"
            )
    kinds = Counter(_PICTURES.get(entry.path.rpartition(".")[2].lower()) for entry in files)
    other = kinds.pop(None, 0)
    if not kinds:
        return AbsentError(f"{expected}; there are {other} files of other kinds, such as {files[0].path}")
    counts = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    place = shlex.quote(folder.uri)
    return AbsentError(f"{expected}; there are pictures ({counts}); {_OF_PICTURES.format(place=place)}")


def _filled(recipe: str, path: str) -> str:
    above = path.rpartition("/")[0] or "."
    return recipe.replace("{!r}", repr(path)).replace("{}", path).replace("FOLDER", above)
