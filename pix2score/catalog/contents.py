"""Where the rows of a plan find their bytes: at the uris they name, or in the catalog's own image column."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeAlias

import pyarrow as pa

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.image_column import COLUMN_BYTES, DamagedColumn, image_column
from pix2score.catalog.several import Catalogs
from pix2score.catalog.view import TableVersion
from pix2score.errors import DataError, ImageFailure, StorageError
from pix2score.host.budget import bounded_runs, in_flight
from pix2score.images.decode import MAX_BYTES
from pix2score.images.fetch import NUM_CONCURRENT, Larger
from pix2score.images.source import ImageSource, image_source, is_outside
from pix2score.storage.folder import Entry, Folder

logger = logging.getLogger(__name__)
Content: TypeAlias = bytes | ImageFailure
BATCH_BYTES = 64 * 2**20  # read in one go: 32 images of 2 MiB, or one of the largest
EXAMPLE_ROWS = 20_000  # among which refused uris are looked for, to be named


@dataclass(frozen=True, slots=True)
class ImageRows:
    """Where the rows of a plan find their bytes: a source of uris, or the catalog's own image column."""

    source: ImageSource
    folder: Folder
    image_column: str | None
    pinned: dict[str, Entry]
    """Catalog files by path, as they were planned."""
    table: TableVersion | None = None
    """What the catalog's files are read as, where they are of a table with a log."""
    members: tuple[ImageRows, ...] = ()
    """Of several catalogs that embed images: a row's file begins with the number of its own and a slash."""

    @classmethod
    def of(cls, catalog: Catalog, source: ImageSource) -> ImageRows:
        """For the rows of a plan made from ``catalog``."""
        pinned = {entry.path: entry for entry in catalog.files} if catalog.embedded else {}
        table = catalog.table.without_rows() if catalog.table and catalog.embedded else None
        return cls(source, catalog.folder, catalog.image_path, pinned, table)

    @classmethod
    def of_all(cls, catalogs: Catalogs, image_roots: Sequence[str]) -> ImageRows:
        """For the rows of a plan made from several; each may name images in the folders of all."""
        folders = [catalog.folder.uri for catalog in catalogs.members]
        source = image_source(folders[0], (*folders[1:], *image_roots))
        first = cls.of(catalogs.first, source)
        if len(folders) == 1 or not catalogs.first.embedded:
            return first
        return replace(first, members=tuple(cls.of(catalog, source) for catalog in catalogs.members))

    def contents(self, rows: pa.Table) -> Iterator[Content]:
        """Content of each row in order; the next few are fetched while the caller works on these.

        What is fetched ahead is bounded in bytes: by ``host.budget.in_flight`` for all threads of the process
        together.
        """
        batches = self._uri_batches(rows) if self.image_column is None else self._embedded_batches(rows)
        batch: _Batch | None = None
        with ThreadPoolExecutor(max_workers=1) as pool:
            ahead = pool.submit(next, batches, None)
            try:
                while batch := ahead.result():
                    ahead = pool.submit(next, batches, None)
                    yield from batch.handed_over()
            finally:  # perhaps given up in the middle
                with contextlib.suppress(Exception):
                    for rest in (batch, ahead.result()):
                        if rest:
                            rest.release()
                batches.close()

    def _uri_batches(self, rows: pa.Table) -> Generator[_Batch]:
        """In one round trip what is small, so that many come at once; then what turned out to be larger, a
        few at a time.

        Of a catalog of large originals fewer rows are asked for at once, each with more room.
        """
        uris, start, size = rows.column("uri"), 0, NUM_CONCURRENT
        while start < len(uris):
            some = _texts(uris.slice(start, size))
            most_bytes = BATCH_BYTES // size
            read = functools.partial(self._read, some, most_bytes)
            found = _Batch.read(most_bytes * len(some), read)
            sizes = [c.size if isinstance(c, Larger) else size_of(c) for c in found.contents]
            yield from self._with_larger(some, found)
            start += len(some)
            if sum(s > most_bytes for s in sizes) > len(some) // 2:
                size = max(1, size // 2)
            elif max(sizes) <= most_bytes // 2:
                size = min(NUM_CONCURRENT, size * 2)

    def _with_larger(self, uris: list[str | None], found: _Batch) -> Iterator[_Batch]:
        """``found``, cut so that the larger images of each batch have room together; those are read now."""
        larger = [content.size if isinstance(content, Larger) else 0 for content in found.contents]
        pending = [
            (start, _Batch(found.contents[start:stop])) for start, stop in bounded_runs(larger, BATCH_BYTES)
        ]
        try:
            while pending:
                start, batch = pending[0]
                self._fill(batch, uris[start : start + len(batch.contents)])
                pending.pop(0)
                yield batch
        finally:
            for _, batch in pending:
                batch.release()

    def _fill(self, batch: _Batch, uris: list[str | None]) -> None:
        larger = {i: content.size for i, content in enumerate(batch.contents) if isinstance(content, Larger)}
        if larger:
            read = _Batch.read(sum(larger.values()), lambda: self._read([uris[i] for i in larger], MAX_BYTES))
            for i, content in zip(larger, read.contents, strict=True):
                batch.contents[i] = content

    def _read(self, uris: list[str | None], most_bytes: int) -> list[bytes | ImageFailure | Larger]:
        found = iter(self.source.read_up_to(most_bytes, [uri for uri in uris if uri is not None]))
        return [
            ImageFailure("NOT_FOUND", "the catalog row has no uri") if uri is None else next(found)
            for uri in uris
        ]

    def _embedded_batches(self, rows: pa.Table) -> Generator[_Batch]:
        contents: list[Content | None] = []
        start = total = 0
        uris: list[str | None] = [None] * rows.num_rows
        if "uri" in rows.column_names:
            uris = _texts(rows.column("uri"))
        for file, row in zip(rows.column("file").to_pylist(), rows.column("row").to_pylist(), strict=True):
            contents.append(self._embedded_image(file, row))
            total += size_of(contents[-1])
            if len(contents) == NUM_CONCURRENT or total >= COLUMN_BYTES:
                yield from self._with_named(contents, uris[start : start + len(contents)])
                contents, start, total = [], start + len(contents), 0
        if contents:
            yield from self._with_named(contents, uris[start:])

    def _with_named(self, contents: Sequence[Content | None], uris: list[str | None]) -> Iterator[_Batch]:
        """Embedded images; those of which a row has only the path are read from there."""
        absent = ImageFailure("NOT_FOUND", "the catalog row has no image")
        found = _Batch.taken([absent if content is None else content for content in contents])
        named = [i for i, content in enumerate(contents) if content is None and uris[i] is not None]
        if not named:
            yield found
            return
        most_bytes = BATCH_BYTES // NUM_CONCURRENT
        read = _Batch.read(most_bytes * len(named), lambda: self._read([uris[i] for i in named], most_bytes))
        for i, content in zip(named, read.contents, strict=True):
            found.contents[i] = content
        yield from self._with_larger(uris, found)

    def _embedded_image(self, file: str, row: int) -> Content | None:
        """The content in a row of a catalog file; None if there is none."""
        if self.members:
            number, _, path = file.partition("/")
            return self.members[int(number)]._embedded_image(path, row)
        try:
            entry, column = self.pinned[file], str(self.image_column)
            with image_column(self.folder.uri, entry, column, row, self.table) as reader:
                value = reader.value(row)
        except DamagedColumn as exc:
            return ImageFailure("CORRUPT", str(exc))
        return ImageFailure("EMPTY", "0 bytes") if value == b"" else value


def size_of(content: object) -> int:
    """Bytes that a content holds."""
    return len(content) if isinstance(content, bytes) else 0


@dataclass(slots=True)
class _Batch:
    """Some contents in order, whose bytes count in ``host.budget.in_flight`` until the caller is done with
    them."""

    contents: list[bytes | ImageFailure | Larger]

    @classmethod
    def read(cls, most_bytes: int, read: Callable[[], list[bytes | ImageFailure | Larger]]) -> _Batch:
        """What ``read`` gives, which is at most ``most_bytes``: they are taken before."""
        in_flight.take(most_bytes)
        contents: list[bytes | ImageFailure | Larger] = []
        try:
            contents = read()
        finally:
            in_flight.give(most_bytes - sum(map(size_of, contents)))
        return cls(contents)

    @classmethod
    def taken(cls, contents: Sequence[Content]) -> _Batch:
        """What was read without asking first."""
        in_flight.take(sum(map(size_of, contents)))
        return cls(list(contents))

    def handed_over(self) -> Iterator[Content]:
        """Each content; when the next is asked for the caller is done with it."""
        self.contents.reverse()
        while self.contents:
            content = self.contents.pop()
            if isinstance(content, Larger):  # grew between two readings
                content = ImageFailure("TOO_LARGE", f"{content.size} bytes, over {MAX_BYTES}")
            try:
                yield content
            finally:
                in_flight.give(size_of(content))

    def release(self) -> None:
        """Nobody will ask for the rest."""
        in_flight.give(sum(map(size_of, self.contents)))
        self.contents.clear()


def log_failures(failed: Counter[str], catalog: Catalog, image_roots: Sequence[str] = ()) -> None:
    """A warning per error code; and for uris that may not be read an example of each kind, with what to do
    where something can be done."""
    log_failures_of(failed, Catalogs.of(catalog), image_roots)


def log_failures_of(failed: Counter[str], catalogs: Catalogs, image_roots: Sequence[str] = ()) -> None:
    """``log_failures`` of several catalogs, each of which may name images in the folders of all."""
    for code, number in failed.most_common():
        logger.warning("%d images failed as %s", number, code)
    if not failed["FORBIDDEN"] or catalogs.first.embedded:
        return
    folders = [catalog.folder.uri for catalog in catalogs.members]
    for catalog in catalogs.members:
        for failure in _refused(catalog, image_source(catalog.folder.uri, (*folders, *image_roots))):
            logger.warning("FORBIDDEN: %s", failure.detail)
            if is_outside(failure):
                logger.warning(
                    "uris outside %s are not read; --image-root PLACE allows another place",
                    " and ".join(folders),
                )


def _refused(catalog: Catalog, source: ImageSource) -> list[ImageFailure]:
    """The first failure of each kind among the first uris of the catalog, found by their text alone."""
    found: dict[str, ImageFailure] = {}
    num_left = EXAMPLE_ROWS
    with contextlib.suppress(
        DataError, StorageError, OSError
    ):  # the run has said so already, should the catalog be missing
        for batch in catalog.batches():
            for uri in _texts(batch.column("uri").slice(0, num_left)):
                try:
                    source.resolve(uri or "")
                except ImageFailure as failure:
                    if uri is not None and failure.code == "FORBIDDEN":
                        found.setdefault(
                            failure.detail.partition(" ")[0] if not is_outside(failure) else "", failure
                        )
            num_left -= batch.num_rows
            if num_left <= 0:
                break
    return list(found.values())


def _texts(column: pa.Array | pa.ChunkedArray) -> list[str | None]:
    """Values of a string column; bytes that are no UTF-8, which some writers leave in, as a file system would
    name them."""
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        return [
            None if data is None else data.decode("utf-8", "surrogateescape")
            for data in column.cast(pa.binary()).to_pylist()
        ]
