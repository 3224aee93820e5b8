"""What a day does to a drawn catalog: a few pictures are new, changed, removed or repaired. For the demo and
tests."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from pix2score.demo.catalog import SCHEMA
from pix2score.demo.drawing import Traits, paint
from pix2score.demo.formats import encode_as
from pix2score.images.decode import open_upright

NUM_NEW, NUM_CHANGED, NUM_REMOVED = 7, 5, 3
_FIRST_NEW_ID = 900_000_001


@dataclass(frozen=True, slots=True)
class Day:
    """How many pictures a day touched."""

    new: int
    changed: int
    removed: int
    repaired: int


def pass_a_day(folder: Path, *, seed: int = 7) -> Day:
    """The catalog in ``folder``, as ``draw_catalog`` made it, is a day older: its Parquet file and some
    images are others.

    Changed pictures are mirrored in place under the same uri, with another etag. Repaired ones are those
    without a readable file, redrawn.
    """
    place = folder / "catalog.parquet"
    rows = pq.read_table(place).to_pylist()
    rng = np.random.default_rng([seed, 2])
    inside = [row for row in rows if row["illust_id"] is not None and ".." not in row["uri"]]
    broken = [row for row in inside if not _is_sound(folder / row["uri"])]
    times = Counter(row["illust_id"] for row in rows)
    sound = [row for row in inside if row not in broken and times[row["illust_id"]] == 1]
    chosen = [sound[i] for i in rng.permutation(len(sound))[: NUM_CHANGED + NUM_REMOVED]]
    changed, removed = chosen[:NUM_CHANGED], chosen[NUM_CHANGED:]
    for row in changed:
        _replace(
            folder, row, ImageOps.mirror(open_upright((folder / row["uri"]).read_bytes()).convert("RGB"))
        )
    for row in broken:
        _replace(folder, row, _picture(rng))
    new = [_new_row(folder, number, rng) for number in range(NUM_NEW)]
    kept = [row for row in rows if row not in removed]
    pq.write_table(pa.Table.from_pylist([*kept, *new], schema=SCHEMA), place)
    return Day(len(new), len(changed), len(removed), len(broken))


def _is_sound(path: Path) -> bool:
    try:
        open_upright(path.read_bytes()).load()
    except Exception:  # whatever is wrong with it, it is to be repaired
        return False
    return True


def _picture(rng: np.random.Generator) -> Image.Image:
    warm, vivid, subject, busy, skin = rng.uniform(0, 1, 5)
    return paint(Traits(warm=warm, vivid=vivid, subject=subject, busy=busy, skin=skin), (200, 200), rng)


def _replace(folder: Path, row: dict[str, Any], picture: Image.Image) -> None:
    data = encode_as(picture, "jpeg")  # what a file is, is known by its bytes and not by its name
    (folder / row["uri"]).parent.mkdir(parents=True, exist_ok=True)
    (folder / row["uri"]).write_bytes(data)
    row["etag"] = hashlib.md5(data, usedforsecurity=False).hexdigest()


def _new_row(folder: Path, number: int, rng: np.random.Generator) -> dict[str, Any]:
    row: dict[str, Any] = {
        "illust_id": _FIRST_NEW_ID + number,
        "page": 0,
        "uri": f"images/new/{_FIRST_NEW_ID + number}_p0.jpg",
    }
    row |= {"artist_id": f"artist_{number:04d}", "updated_at": datetime(2026, 1, 1, tzinfo=UTC)}
    _replace(folder, row, _picture(rng))
    return row
