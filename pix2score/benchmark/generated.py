"""Catalogs, live snapshots and staged pieces of any size, made column by column: no row is a Python object.

Rows have the honest shape: a 24-character id, a page, a 32-character etag. A catalog is in no order of keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.heads.bins import median_bin
from pix2score.heads.presets import preset
from pix2score.heads.spec import HeadSpec
from pix2score.snapshots.manifest import publish
from pix2score.snapshots.pieces import Origin, Receipt, write_piece
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import DataFile, Layout, unique_path, write_file
from pix2score.storage.arrow import fixed_lists
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches, parquet_bytes
from pix2score.storage.parts import Part

EMBEDDING_DIM = 4
"""Embeddings are not looked at: they only have to be there."""
MODEL_VERSION = "benchmark000"
Numbers = npt.NDArray[np.int64]
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


def texts(*pieces: bytes | tuple[Numbers, int, int]) -> pa.Array:
    """Strings of one length: literal pieces, and numbers with so many digits in a base of at most 16."""
    numbers = next(piece[0] for piece in pieces if isinstance(piece, tuple))
    columns = [_digits(*piece) if isinstance(piece, tuple) else _literal(piece, numbers) for piece in pieces]
    content = np.concatenate(columns, axis=1)
    offsets = np.arange(len(numbers) + 1, dtype=np.int64) * content.shape[1]
    if offsets[-1] >= 2**31:
        raise ValueError(f"{offsets[-1]} bytes of text in one array")
    buffers = pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(content))
    return pa.StringArray.from_buffers(len(numbers), *buffers)


def _literal(text: bytes, numbers: Numbers) -> npt.NDArray[np.uint8]:
    return np.broadcast_to(np.frombuffer(text, np.uint8), (len(numbers), len(text)))


def _digits(numbers: Numbers, num_digits: int, base: int) -> npt.NDArray[np.uint8]:
    found, rest = np.empty((len(numbers), num_digits), np.uint8), numbers
    for position in range(num_digits - 1, -1, -1):
        rest, digit = np.divmod(rest, base)
        found[:, position] = _HEX[digit]
    return found


def ids(numbers: Numbers) -> pa.Array:
    """Of 24 characters."""
    return texts(b"illustration", (numbers, 12, 10))


def etags(numbers: Numbers, version: npt.NDArray[np.bool_], mark: bytes = b"") -> pa.Array:
    """Of 32 characters, behind ``mark``; they differ by ``version`` too."""
    return texts(mark, (version.astype(np.int64), 8, 16), (numbers, 24, 16))


def write_catalog(folder: Folder, num_rows: int, file_rows: int) -> str:
    """Write the catalog of a later night of ``num_rows`` to ``folder``; return its place."""
    for number in range(num_files(num_rows, file_rows)):
        write_catalog_file(folder, number, num_rows, file_rows, True)
    return folder.uri


def num_files(num_rows: int, file_rows: int) -> int:
    """Of a catalog or a live snapshot."""
    return -(-num_rows // file_rows)


def write_catalog_file(folder: Folder, number: int, num_rows: int, file_rows: int, is_later: bool) -> None:
    """Write one file of a catalog: a block of rows that follows on no other, in no order itself.

    Every hundredth row has another etag than the live snapshot if it ``is_later``, every thousandth is
    another illustration.
    """
    block = int(np.random.default_rng(0).permutation(num_files(num_rows, file_rows))[number])
    rows = np.arange(block * file_rows, min(num_rows, (block + 1) * file_rows))
    rows = np.random.default_rng(number).permutation(rows)
    numbers = np.where((rows % 1000 == 7) & is_later, rows + num_rows, rows)
    write_rows(folder, f"part-{number:05}.parquet", numbers, (rows % 100 == 3) & is_later)


def write_rows(folder: Folder, name: str, numbers: Numbers, version: npt.NDArray[np.bool_]) -> None:
    """Write a catalog's file of these illustrations; their etags differ by ``version`` too."""
    columns = {"illust_id": ids(numbers), "page": pa.array(np.zeros(len(numbers), np.int32))}
    columns["uri"] = texts(b"images/", (numbers, 12, 10), b".jpg")
    columns["etag"] = etags(numbers, version)
    folder.publish(name, parquet_bytes(pa.table(columns)), replace=True)


def pixiv_layout() -> Layout:
    """Three heads, some 200 bytes a row that do not compress."""
    return Layout(pa.string(), _fitted(preset("pixiv")), EMBEDDING_DIM, "float16")


def narrow_layout() -> Layout:
    """One head of six bins, some 40 bytes a row: what a hundred million rows leave room for on a disk."""
    return Layout(pa.string(), _fitted(preset("pixiv")[-1:]), EMBEDDING_DIM, "float16")


def _fitted(heads: Sequence[Any]) -> tuple[HeadSpec, ...]:
    return tuple(
        h.fitted(edges=h.edges, counts=[1] * h.num_bins, typical=list(range(h.num_bins))) for h in heads
    )


def write_live(folder: Folder, num_rows: int, file_rows: int) -> Snapshot:
    """Publish a snapshot of ``num_rows``, without embeddings."""
    layout = pixiv_layout()
    starts = range(0, num_rows, file_rows)
    files = [_write_live_file(folder, layout, start, min(num_rows, start + file_rows)) for start in starts]
    counts = {"rows": num_rows, "ok": num_rows, "failed": 0, "failed_by_code": {}}
    manifest = {
        "run": "benchmark-1",
        "model_version": MODEL_VERSION,
        "layout": layout.to_dict(),
        "fingerprint_kind": "etag",
    }
    plain = [asdict(file) for file in files]
    return publish(folder, 0, {**manifest, "counts": counts, "runs": {}, "files": plain})


def _write_live_file(folder: Folder, layout: Layout, start: int, stop: int) -> DataFile:
    rows = np.arange(start, stop)
    fingerprints = etags(rows, np.zeros(len(rows), np.bool_), b"etag:")
    table = _scores(layout, ids(rows), fingerprints, "benchmark-1")
    return write_file(folder, "scores", unique_path("scores", "benchmark-1"), table)


@functools.lru_cache(maxsize=8)
def _predictions(name: str, num_bins: int, num_rows: int) -> dict[str, pa.Array]:
    """Columns of a head with probabilities that do not compress."""
    probs = np.random.default_rng(1).dirichlet(np.ones(num_bins), num_rows).astype(np.float32)
    return {
        f"{name}_bin": pa.array(probs.argmax(axis=1).astype(np.int16)),
        f"{name}_probs": fixed_lists(probs),
        f"{name}_score": pa.array(probs[:, 0]),
        f"{name}_expected": pa.array(probs[:, 1] * 1000),
        f"{name}_median": pa.array(median_bin(probs.astype(np.float64))),
    }


def _scores(layout: Layout, keys: pa.Array, fingerprints: pa.Array, run: str) -> pa.Table:
    num_rows, columns = len(keys), dict[str, pa.Array]()
    for head in layout.heads:
        pool = _predictions(head.name, head.num_outputs, 2 ** max(14, (num_rows - 1).bit_length()))
        columns |= {name: array.slice(0, num_rows) for name, array in pool.items()}
    columns |= {
        "illust_id": keys,
        "page": pa.array(np.zeros(num_rows, np.int32)),
        "status": pa.repeat(pa.scalar("ok"), num_rows),
    }
    columns |= {name: pa.nulls(num_rows, pa.string()) for name in ("error_code", "error_detail")}
    columns |= {
        "attempts": pa.array(np.ones(num_rows, np.int16)),
        "fingerprint": fingerprints,
        "run": pa.repeat(run, num_rows),
        "embedding_run": pa.repeat(run, num_rows),
    }
    columns["scored_at"] = pa.array(np.full(num_rows, 1_763_000_000_000_000), pa.timestamp("us", tz="UTC"))
    return pa.table([columns[name] for name in layout.scores.names], schema=layout.scores)


def staged(folder: Folder, origin: Origin, layout: Layout, parts: Sequence[Part]) -> list[Receipt]:
    """Pieces for every planned row, with made-up predictions and no embeddings."""
    return [stage_part(folder, origin, layout, number, part) for number, part in enumerate(parts)]


def stage_part(
    folder: Folder,
    origin: Origin,
    layout: Layout,
    number: int,
    part: Part,
    embed: Callable[[pa.Table, Layout], pa.Table] | None = None,
) -> Receipt:
    """The piece of one part of a plan; ``embed`` makes its embeddings."""
    rows = pa.Table.from_batches(parquet_batches(folder, [part.path], ["illust_id", "fingerprint"]))
    keys, fingerprints = (rows.column(name).combine_chunks() for name in ("illust_id", "fingerprint"))
    scores = _scores(layout, keys, fingerprints, origin.run)
    embeddings = embed(scores, layout) if embed else layout.embeddings.empty_table()
    return write_piece(folder, origin, f"piece-{number:06}", layout, scores, embeddings)


def embedded(scores: pa.Table, layout: Layout) -> pa.Table:
    """An embedding for each row."""
    numbers = np.random.default_rng(2).random(scores.num_rows * EMBEDDING_DIM).astype(np.float16)
    element = layout.embeddings.field("embedding").type
    columns = [scores.column("illust_id"), scores.column("page")]
    columns.append(pa.FixedSizeListArray.from_arrays(pa.array(numbers), type=element))
    return pa.table(columns, schema=layout.embeddings)
