"""Folders that must not be read as plain Parquet: tables of a format with a log, catalogs that are being
written, and our own outputs."""

from __future__ import annotations

import contextlib
import posixpath
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pix2score.errors import DataError, Pix2ScoreError
from pix2score.storage.folder import Entry, Folder
from pix2score.storage.places import is_remote, named_errors

MAX_ABOVE = 6
"""Folders above a place that are asked whether they are a table: partitions are rarely nested deeper."""

_BY_NAME = (
    ("Delta Lake", re.compile(r"(^|/)_delta_log$"), "_delta_log"),
    ("Hudi", re.compile(r"(^|/)\.hoodie(_partition_metadata\S*)?$"), ".hoodie"),
    (
        "Iceberg",
        re.compile(
            r"(^|/)metadata/([^/]*\.metadata\.json(\.gz)?|[^/]*\.gz\.metadata\.json|version-hint\.text)$"
        ),
        "metadata/",
    ),
    (
        "Lance",
        re.compile(r"(^|/)(_versions/.*\.manifest|data/[^/]*\.lance|[^/]*\.lance/_versions)$"),
        "_versions/",
    ),
    ("Paimon", re.compile(r"(^|/)snapshot/(snapshot-\d+|LATEST|EARLIEST)$"), "snapshot/"),
    ("DuckLake", re.compile(r"(^|/)ducklake-[0-9a-f-]{36}(-delete)?\.parquet$"), "catalog database"),
)
_EXPORT = {
    "Delta Lake": "duckdb.sql(\"COPY (FROM delta_scan('TABLE')) TO 'catalog.parquet'\")",
    "Iceberg": "duckdb.sql(\"COPY (FROM iceberg_scan('TABLE')) TO 'catalog.parquet'\")",
    "Lance": "pyarrow.parquet.write_table(lance.dataset('TABLE').to_table(), 'catalog.parquet')",
    "Hudi": "spark.read.format('hudi').load('TABLE').write.parquet('catalog')",
    "Paimon": "spark.read.format('paimon').load('TABLE').write.parquet('catalog')",
    "DuckLake": "COPY (FROM the_table) TO 'catalog.parquet' in DuckDB",
}

_RUN = r"\d{8}T\d{6}-[0-9a-f]{8}"
_OWN = (
    ("a scores folder", re.compile(r"^(?P<top>.*?)/?(^|/)snapshots/\d{8}\.json$")),
    ("a scores folder", re.compile(rf"^(?P<top>.*?)/?(^|/)(staged|runs|scores|embeddings|dead)/{_RUN}/")),
    (
        "a dataset made by prepare",
        re.compile(r"^(?P<top>.*?)/?(^|/)staged/[0-9a-f]{12}/(plan-|piece-|[0-9a-f])"),
    ),
    ("a dataset made by prepare", re.compile(r"^(?P<top>.*?)/?(^|/)dataset\.json$")),
    ("a model", re.compile(r"^(?P<top>.*?)/?(^|/)model\.json$")),
)

_UNFINISHED = re.compile(
    r"(^|/)(_temporary|_tmp|\.spark-staging\S*)$|\.inprogress\b|(^|/)[^/.]*(\.(parquet|pq|parq))?\.(tmp|temp|crswap)$",
    re.IGNORECASE,
)
_HALF_COPIED = re.compile(
    r"\.(parquet|pq|parq)\.(part|partial|filepart|crdownload|download|[A-Za-z0-9]{6})$", re.IGNORECASE
)
BEING_WRITTEN = "_started_pix2score"
"""What stands in a catalog while a job of ours writes it: a dead one must not be read as if it were whole."""
_STARTED = re.compile(r"(^|/)_started_(?P<id>[^/]+)$")


def refuse_table(folder: Folder, names: Iterable[str]) -> None:
    """Raise ``DataError`` if a table of a known format lies in or below a folder, by its ``names``, or if the
    folder lies in one."""
    names = list(names)
    within = [name for name in ("metadata", "snapshot", "_versions") if name in names]
    names += [f"{name}/{inner}" for name in within for inner in _inside(folder, name)]
    for path in names:
        _refuse_if_table(folder, path)
    for above in (folder, *_above(folder)):
        for path in _marks_in(above):
            _refuse_if_table(above, path)


def _refuse_if_table(folder: Folder, path: str) -> None:
    for kind, pattern, log in _BY_NAME:
        found = pattern.search(path)
        if found:
            table = folder.full(path[: found.start()].strip("/"))
            raise DataError(
                f"{folder.full(path)}: {table} is {'an' if kind == 'Iceberg' else 'a'} {kind} table, whose "
                f"log ({log}) says which rows of "
                "its Parquet files are live; read as plain files, deleted rows would come back. Export it "
                "as plain Parquet and give that: "
                f"{_EXPORT[kind].replace('TABLE', table)}"
            )


def _above(folder: Folder) -> list[Folder]:
    """The folders above, nearest first, without the root of a disk or bucket's outside."""
    found: list[Folder] = []
    place = folder
    while len(found) < MAX_ABOVE:
        parent = place.uri.rpartition("/")[0]
        if not parent or parent.endswith("/") or (is_remote(folder.uri) and parent.count("/") < 2):
            break
        place = Folder(parent)
        found.append(place)
    return found


def _marks_in(folder: Folder) -> list[str]:
    """Names in a folder that may mean a table of a known format; none where it may not be listed."""

    def found(name: str) -> list[str]:
        if name in ("metadata", "snapshot"):
            return [f"{name}/{inner}" for inner in _inside(folder, name)]
        return [name] if _is_there(folder, name) else []

    with ThreadPoolExecutor(max_workers=4) as pool:
        return [
            path
            for names in pool.map(found, ("_delta_log", ".hoodie", "metadata", "snapshot"))
            for path in names
        ]


def _is_there(folder: Folder, name: str) -> bool:
    with contextlib.suppress(OSError, Pix2ScoreError), named_errors(folder.uri):
        return bool(folder.fs.exists(folder.full(name)))
    return False


def _inside(folder: Folder, name: str) -> list[str]:
    with contextlib.suppress(OSError, Pix2ScoreError), named_errors(folder.uri):
        return [
            str(path).rstrip("/").rpartition("/")[2] for path in folder.fs.ls(folder.full(name), detail=False)
        ]
    return []


def refuse_unfinished(folder: Folder, names: Sequence[str], files: Sequence[Entry]) -> None:
    """Raise ``DataError`` if a writer is still at work among ``files``, or died there: some rows would be
    missing without a word."""
    beside = {posixpath.dirname(entry.path) for entry in files}
    committed = {name.replace("_committed_", "_started_") for name in names if "_committed_" in name}
    for name in names:
        above = posixpath.dirname(name)
        is_beside = not files or any(
            top == above or top.startswith(f"{above}/") or not above for top in beside
        )
        is_open = (
            _UNFINISHED.search(name)
            or _HALF_COPIED.search(name)
            or (_STARTED.search(name) and name not in committed)
        )
        if name == BEING_WRITTEN:
            raise DataError(
                f"catalog {folder.uri} is not whole: jobs.pseudo or jobs.catalog writes it, or died there; "
                "run that again with the same --out"
            )
        if is_beside and is_open:
            raise DataError(
                f"catalog {folder.uri} is still being written: {folder.full(name)} stands there; run again "
                "when its writer has finished, "
                f"or remove that if the writer is dead"
            )


def own_folders(names: Iterable[str]) -> dict[str, str]:
    """Folder -> what it is, of those that pix2score wrote among ``names``; the empty path is the listed
    folder itself."""
    known = set(names)
    found: dict[str, str] = {}
    for path in known:
        for what, pattern in _OWN:
            match = pattern.search(path)
            if match and _has_companions(match["top"].rstrip("/"), posixpath.basename(path), known):
                found.setdefault(match["top"].rstrip("/"), what)
    return found


def _has_companions(top: str, name: str, known: set[str]) -> bool:
    """Others too call a file dataset.json or model.json; ours are never alone."""
    below = f"{top}/" if top else ""
    if name == "model.json":
        return f"{below}model.safetensors" in known
    return name != "dataset.json" or any(path.startswith(f"{below}split=") for path in known)
