"""Which rows of a split carry more than their answers, and which belong together: by their keys alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from pix2score.catalog.keys import Key


def draw_of(key: Key) -> float:
    """A number in [0, 1) that depends on the key alone.

    The sample of a share are the rows whose number is below it.
    """
    return (
        int.from_bytes(hashlib.blake2b(f"{key[0]}/{key[1]}".encode(), digest_size=8).digest(), "big") / 2**64
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Which rows carry more than pixels: thumbnails below ``shown``, altered copies below ``altered``."""

    shown: float = 0.0
    altered: float = 0.0
    originals: Mapping[Key, bytes] = field(default_factory=dict)


def group_number(group: str | None, key: Key) -> int:
    """int64 that tells groups apart."""
    text = f"{key[0]}" if group is None else f"group:{group}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def keys_of(rows: pa.Table) -> list[Key]:
    """The key of each row."""
    return list(zip(rows.column("illust_id").to_pylist(), rows.column("page").to_pylist(), strict=True))
