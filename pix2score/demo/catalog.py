"""A small local catalog drawn from a seed: ``catalog.parquet`` and ``images/``, with the troubles that real
ones have.

Owns the works, the broken files and the rows; ``demo.drawing`` draws the pictures, ``demo.formats`` writes
them, ``demo.labels`` has their labels.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pix2score.demo.drawing import Traits, paint
from pix2score.demo.formats import FORMATS, encode_as
from pix2score.demo.labels import LABELS, draw_labels

SCHEMA = pa.schema(
    {"illust_id": pa.int64(), "page": pa.int32(), "uri": pa.string(), "artist_id": pa.string()}
    | dict.fromkeys(LABELS, pa.int64())
    | {"etag": pa.string(), "updated_at": pa.timestamp("us", tz="UTC")}
)
_EXTREME_SIZES = {"png_rgb": (40, 40), "jpeg": (3000, 2000), "jpeg_progressive": (1300, 2900)}


@dataclass(frozen=True, slots=True)
class DrawnCatalog:
    """What ``draw_catalog`` wrote. ``broken`` counts rows by the error code they must get."""

    uri: str  # the folder
    num_rows: int
    num_files: int  # under images/, broken ones too
    formats: dict[str, int]  # sound pictures by name in FORMATS
    broken: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Flaw:
    """A way for a row to fail: ``spoil`` takes the bytes of a sound file to those on disk, None for no
    file."""

    code: str
    file_format: str
    spoil: Callable[[bytes], bytes | None]


_FLAWS = (
    _Flaw("EMPTY", "jpeg", lambda data: b""),
    _Flaw("TRUNCATED", "jpeg", lambda data: data[: len(data) // 2]),
    _Flaw("TRUNCATED", "png_rgb", lambda data: data[: len(data) // 2]),
    _Flaw("UNSUPPORTED", "png_rgb", lambda data: b"This is a note, not a picture.\n"),
    _Flaw("NOT_FOUND", "jpeg", lambda data: None),
    _Flaw("FORBIDDEN", "png_rgb", lambda data: None),
)


# The formats of successive works: each once, then the common ones. The extreme sizes go to the first of their
# format.
_MIX = (*FORMATS, *8 * ("jpeg",), *5 * ("png_rgb",), *2 * ("png_alpha", "jpeg_progressive", "webp"))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """One illustration of one or more pages, before it is drawn."""

    illust_id: int
    artist_id: str
    num_pages: int
    file_format: str
    size: tuple[int, int]
    traits: Traits
    flaw: _Flaw | None


def _size(rng: np.random.Generator) -> tuple[int, int]:
    """Width and height; the long side is 80 to 400 pixels, of one in fourteen up to 1,000."""
    longest = math.exp(rng.uniform(math.log(80), math.log(400))) * (2.5 if rng.random() < 0.07 else 1)
    aspect = float(rng.choice((1, 1, 0.75, 0.71, 1.33, 1.41, 0.56)))  # width / height
    return round(longest * min(1, aspect)), round(longest * min(1, 1 / aspect))


def _plan_work(index: int, num_artists: int, num_pages: int, flaw: _Flaw | None, seed: int) -> _Work:
    """The work at this place of the catalog. An artist keeps to a palette, so works of one artist look
    alike."""
    rng = np.random.default_rng([seed, index])
    artist = int(rng.integers(num_artists))
    warm, vivid = np.clip(
        np.random.default_rng([seed, artist, 1]).uniform(0, 1, 2) + rng.normal(0, 0.2, 2), 0, 1
    )
    subject, busy, skin = rng.uniform((0, 0, -0.2), 1)
    traits = Traits(warm=float(warm), vivid=float(vivid), subject=subject, busy=busy, skin=max(0.0, skin))
    name = flaw.file_format if flaw else _MIX[index % len(_MIX)]
    extreme = _EXTREME_SIZES.get(name) if index < len(FORMATS) and not flaw else None
    return _Work(
        illust_id=10_000_019 + 37 * index,
        artist_id=f"artist_{artist:04d}",
        num_pages=num_pages,
        file_format=name,
        size=extreme or _size(rng),
        traits=traits.in_grey() if FORMATS[name].grey else traits,
        flaw=flaw,
    )


def _plan(num_pictures: int, seed: int) -> list[_Work]:
    """Sound works with ``num_pictures`` pages in all, one in eight with 2 to 4 pages each; then one work per
    flaw."""
    rng, num_artists = np.random.default_rng([seed, 0, 2]), max(1, num_pictures // 4)
    works: list[_Work] = []
    while num_pictures > 0:
        wanted = int(rng.integers(2, 5)) if len(works) >= len(FORMATS) and rng.random() < 0.125 else 1
        works.append(_plan_work(len(works), num_artists, min(wanted, num_pictures), None, seed))
        num_pictures -= works[-1].num_pages
    return works + [_plan_work(len(works) + i, num_artists, 1, flaw, seed) for i, flaw in enumerate(_FLAWS)]


def _draw_page(folder: Path, work: _Work, page: int, seed: int) -> dict[str, Any]:
    """Write one page, unless its flaw is to have no file, and return its columns ``page``, ``uri`` and
    ``etag``."""
    picture = paint(work.traits, work.size, np.random.default_rng([seed, work.illust_id, page]))
    sound = encode_as(picture, work.file_format)
    data = work.flaw.spoil(sound) if work.flaw else sound
    uri = f"images/{work.illust_id % 8}/{work.illust_id}_p{page}.{FORMATS[work.file_format].extension}"
    if data is not None:
        (folder / uri).parent.mkdir(parents=True, exist_ok=True)
        (folder / uri).write_bytes(data)
    etag = hashlib.md5(sound if data is None else data, usedforsecurity=False).hexdigest()
    return {
        "page": page,
        "uri": "../outside.png" if work.flaw and work.flaw.code == "FORBIDDEN" else uri,
        "etag": etag,
    }


def _blemishes(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Two more rows made from one: its key as it was a month before, nobody having seen it; and one without
    an id."""
    older = {"updated_at": row["updated_at"] - timedelta(days=30), "bookmarks": 0, "views": 0}
    return [{**row, **older}, {**row, "illust_id": None}]


def _draw_works(folder: Path, works: Sequence[_Work], seed: int) -> list[dict[str, Any]]:
    """Write every file and return the rows of the catalog: one per page in the order of the works, then
    blemishes."""
    labels = draw_labels([work.traits for work in works], np.random.default_rng([seed, 0, 3]))
    rows: list[dict[str, Any]] = []
    for index, work in enumerate(works):
        updated_at = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=7 * index)
        common = {"illust_id": work.illust_id, "artist_id": work.artist_id, "updated_at": updated_at}
        rows += [
            common | labels[index] | _draw_page(folder, work, page, seed) for page in range(work.num_pages)
        ]
    return rows + _blemishes(rows[min(1, len(rows) - 1)])


def draw_catalog(folder: Path, *, num_pictures: int = 360, seed: int = 7) -> DrawnCatalog:
    """A catalog of ``num_pictures`` sound pictures, and a few troubles, lies in ``folder``: the same bytes
    for a seed.

    ``catalog.parquet`` has the columns of ``SCHEMA``, rows shuffled, uris relative to ``folder``. From 12
    pictures on, every one of ``FORMATS`` occurs. The troubles: a row per flaw (EMPTY, TRUNCATED twice,
    UNSUPPORTED, NOT_FOUND, FORBIDDEN), an older row of a key that is there already, a row without an id.
    Overwrites files of the same name and leaves others alone.

    Raises:
        ValueError: ``num_pictures`` is less than 1.
    """
    if num_pictures < 1:
        raise ValueError(f"num_pictures is {num_pictures}; expected at least 1")
    works = _plan(num_pictures, seed)
    rows = _draw_works(folder, works, seed)
    order = np.random.default_rng([seed, 0, 4]).permutation(len(rows))
    pq.write_table(
        pa.Table.from_pylist([rows[place] for place in order], schema=SCHEMA), folder / "catalog.parquet"
    )
    formats = Counter(name for work in works if not work.flaw for name in work.num_pages * [work.file_format])
    num_files = num_pictures + sum(flaw.spoil(b"any") is not None for flaw in _FLAWS)
    return DrawnCatalog(
        str(folder), len(rows), num_files, dict(formats), dict(Counter(flaw.code for flaw in _FLAWS))
    )
