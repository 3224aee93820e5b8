"""A prepared dataset as train and evaluate read it: its heads, its shards, and encoded images as model input.

Written by ``prepare``; the folder's layout is told there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pix2score.bins import MISSING
from pix2score.errors import DataError, ImageFailure
from pix2score.heads import HeadSpec, head_from_dict
from pix2score.images import Preprocess, to_rgb
from pix2score.plan import Part
from pix2score.schema import SPLITS
from pix2score.storage import Folder

CARD = "dataset.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class PreparedDataset:
    """What dataset.json says, and ``id``: 12 hex digits over it."""

    folder: Folder
    heads: tuple[HeadSpec, ...]
    card: dict[str, Any]
    id: str

    def parts(self, split: str) -> list[Part]:
        """Shards of a split, largest first. Raises ``DataError`` naming an unknown or empty split."""
        if split not in SPLITS:
            raise DataError(f"split {split!r} is not known; one of {', '.join(SPLITS)}")
        parts = [Part(shard["path"], shard["rows"]) for shard in self.card["shards"] if shard["split"] == split]
        if not parts:
            raise DataError(f"dataset {self.folder.uri} has no row in split {split!r}; it has {self.card['rows']}")
        return parts

    def num_rows(self, split: str) -> int:
        """Rows of a split."""
        return int(self.card["rows"][split])


def open_dataset(place: str) -> PreparedDataset:
    """The dataset at ``place``. Raises ``DataError`` if there is none, or it is of another format."""
    folder = Folder(place)
    try:
        data = folder.read(CARD)
        card = json.loads(data)
        if card["format"] != FORMAT:
            raise DataError(f"{place}/{CARD} has format {card['format']}; this version of pix2score reads {FORMAT}")
        heads = tuple(head_from_dict(plain) for plain in card["heads"])
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{place} is not a prepared dataset: no {CARD} there; python -m jobs.prepare makes one") from None
    except (ValueError, KeyError, TypeError) as exc:
        raise DataError(f"{place}/{CARD} is not a dataset card: {exc!r}") from None
    return PreparedDataset(folder, heads, card, hashlib.sha256(data).hexdigest()[:12])


def decode_shard(rows: pa.Table, *, heads: Sequence[HeadSpec], preprocess: Preprocess) -> pa.Table:
    """Ray Data stage: shard rows in; ``pixels`` (fixed-size binary, S*S*3 bytes), ``<h>_bin`` and ``<h>_label`` out.

    A padding row (no image) comes out black with every label missing, so that it weighs nothing.

    Raises ``DataError`` if an image does not decode: prepare has decoded each one, so something else is wrong, such as a Pillow without a
    format, and going on would silently train on less.
    """
    pixels, present = zip(*(_pixels(image, preprocess) for image in rows.column("image").to_pylist()), strict=True)
    columns: dict[str, Any] = {"pixels": pa.array(pixels, pa.binary(preprocess.size**2 * 3))}
    mask = np.array(present)
    for head in heads:
        bins = rows.column(f"{head.name}_bin").fill_null(MISSING).to_numpy()
        columns[f"{head.name}_bin"] = pa.array(np.where(mask, bins, MISSING).astype(np.int16))
        columns[f"{head.name}_label"] = rows.column(f"{head.name}_label").cast(pa.float64(), safe=False)
    return pa.table(columns)


def _pixels(image: bytes | None, preprocess: Preprocess) -> tuple[bytes, bool]:
    if image is None:
        return bytes(preprocess.size**2 * 3), False
    try:
        return to_rgb(image, preprocess).tobytes(), True
    except ImageFailure as failure:
        raise DataError(f"a prepared image does not decode here though it did when prepared: {failure}") from None
