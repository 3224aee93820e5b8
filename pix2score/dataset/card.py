"""A prepared dataset as train and evaluate read it: its heads, its shards, and encoded images as model input.

Written by ``prepare``: ``prepare.job`` says how the folder is laid out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pix2score.catalog.catalog import place_of
from pix2score.catalog.keys import key_fields
from pix2score.errors import DataError
from pix2score.heads.compared import OTHERS
from pix2score.heads.kinds import head_from_dict
from pix2score.heads.spec import HeadSpec
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import open_parquet
from pix2score.storage.parts import Part

CARD = "dataset.json"
FORMAT = 1
SPLITS = ("train", "val", "test")


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
        parts = [
            Part(shard["path"], shard["rows"]) for shard in self.card["shards"] if shard["split"] == split
        ]
        if not parts:
            raise DataError(
                f"dataset {self.folder.uri} has no row in split {split!r}; it has {self.card['rows']}"
            )
        return parts

    @property
    def catalogs(self) -> list[str]:
        """Places of the catalogs that it was made of, in the order in which their rows count."""
        card = self.card
        return [place_of(found) for found in (card["catalog"], *card.get("more_catalogs", ()))]

    def has_column(self, name: str) -> bool:
        """Whether shards have it: ``source`` and ``weight`` are only there where they are used."""
        with open_parquet(self.folder, self.card["shards"][0]["path"]) as file:
            return name in file.schema_arrow.names

    def num_rows(self, split: str) -> int:
        """Rows of a split."""
        return int(self.card["rows"][split])

    def num_images(self, split: str) -> int:
        """Images of a split: more than rows where rows hold compared images."""
        planned = self.card["dropped"].get("comparisons", {"images_by_split": {}, "sets_by_split": {}})
        others = planned["images_by_split"].get(split, 0) - planned["sets_by_split"].get(split, 0)
        return self.num_rows(split) + int(others)

    def images_per_row(self, split: str) -> float:
        """On average; 1 for an empty split."""
        return self.num_images(split) / self.num_rows(split) if self.num_rows(split) else 1.0


def open_dataset(place: str) -> PreparedDataset:
    """The dataset at ``place``. Raises ``DataError`` if there is none, or it is of another format."""
    folder = Folder(place)
    try:
        data = folder.read(CARD)
        card = json.loads(data)
        if card["format"] != FORMAT:
            raise DataError(
                f"{place}/{CARD} has format {card['format']}; this version of pix2score reads {FORMAT}"
            )
        heads = tuple(head_from_dict(plain) for plain in card["heads"])
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{place} is not a prepared dataset: no {CARD} there; python -m jobs.prepare makes one"
        ) from None
    except (ValueError, KeyError, TypeError) as exc:
        raise DataError(f"{place}/{CARD} is not a dataset card: {exc!r}") from None
    return PreparedDataset(folder, heads, card, hashlib.sha256(data).hexdigest()[:12])


def dataset_schema(
    id_type: pa.DataType,
    heads: Sequence[HeadSpec],
    label_types: Sequence[tuple[str, pa.DataType]],
    further: Sequence[pa.Field] = (),
) -> pa.Schema:
    """One training image: its bytes, and per head the label, null where missing, and its target.

    ``further``: source and weight, where they are used.

    With a head that compares, a row may hold a set of images instead: the first, and ``others``.
    """
    labels = [pa.field(f"{head}_label", t) for head, t in label_types]
    others = [pa.field(OTHERS, pa.list_(pa.binary()))] if any(head.COMPARES for head in heads) else []
    return pa.schema(
        [
            *key_fields(id_type),
            pa.field("group", pa.string()),
            *further,
            pa.field("image", pa.binary(), nullable=False),
            *others,
            *labels,
            *(head.target_field() for head in heads),
        ]
    )


def check_heads(place: str, heads: Sequence[HeadSpec], dataset: PreparedDataset) -> None:
    """Raise ``DataError`` naming heads that the dataset lacks, or has with other bins, classes or tags."""
    theirs = {head.name: head for head in dataset.heads}
    problems = [f"{h.name} is not in the dataset" for h in heads if h.name not in theirs]
    found = [h.difference_from(theirs[h.name]) for h in heads if h.name in theirs]
    problems += [difference for difference in found if difference]
    if problems:
        raise DataError(f"model {place} and dataset do not match: {'; '.join(problems)}")
