"""How many images share one content, as the placeholder of deleted works does: counted in each piece, merged
in bounded memory.

Numbers are lower bounds: a piece tells only its most common contents, and rare ones give way when pieces are
merged.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

CONTENT_ID = pa.field("content_id", pa.int64())
"""Column that travels with the rows: ``content_id`` of the bytes, null where there are none."""
MANY = 10
"""Images of one content that a person should hear of."""
MOST_OF_PIECE = 16
MOST = 1024
_END_BYTES = 2**16


def content_id(content: bytes) -> int:
    """64 bits that tell contents apart: hash of their size, beginning and end, as hashing a large original
    whole takes milliseconds."""
    digest = hashlib.blake2b(len(content).to_bytes(8, "little"), digest_size=8, usedforsecurity=False)
    digest.update(content[:_END_BYTES])
    digest.update(content[-_END_BYTES:])
    return int.from_bytes(digest.digest(), "little", signed=True)


def of_piece(rows: pa.Table) -> dict[str, int]:
    """Content (in hex) -> images of ``rows`` that have it: the most common ones that occur more than once;
    none without the column."""
    if CONTENT_ID.name not in rows.column_names:
        return {}
    counted = rows.column(CONTENT_ID.name).drop_null().value_counts()
    found = pa.table({"value": counted.field("values"), "number": counted.field("counts")})
    found = found.filter(pc.greater(found.column("number"), 1))
    found = found.sort_by([("number", "descending"), ("value", "ascending")]).slice(0, MOST_OF_PIECE)
    return {f"{row['value'] % 2**64:016x}": row["number"] for row in found.to_pylist()}


@dataclass(slots=True)
class Repeats:
    """``of_piece`` of many pieces added up: a Misra-Gries summary of ``most`` contents.

    A count is never too high, and too low by at most a ``most``-th of all that was added (Agarwal et al.
    2012, "Mergeable summaries").
    """

    most: int = MOST
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, counts: Mapping[str, int]) -> None:
        """Those of one more piece, or of another summary."""
        self.counts.update(counts)
        if len(self.counts) > self.most:
            less = self.counts.most_common(self.most + 1)[-1][1]
            self.counts = Counter(
                {content: number - less for content, number in self.counts.items() if number > less}
            )

    def summary(self) -> dict[str, int]:
        """``images`` that share ``contents``, and how many share the most common one; zeros where no two
        do."""
        return {
            "images": self.counts.total(),
            "contents": len(self.counts),
            "most_common": max(self.counts.values(), default=0),
        }

    def sentence(self) -> str:
        """The same for a person; empty where no two images do."""
        if not self.counts:
            return ""
        facts = self.summary()
        others = (
            f"{facts['contents']} contents; the most common stands"
            if facts["contents"] > 1
            else "one content; it stands"
        )
        return (
            f"at least {facts['images']} images share {others} {facts['most_common']} times (a "
            "placeholder of deleted works?)"
        )

    def log(self, logger: logging.Logger) -> None:
        """The sentence: as a warning where one content is there ``MANY`` times or more."""
        if self.counts:
            logger.log(
                logging.WARNING if self.summary()["most_common"] >= MANY else logging.INFO,
                "%s",
                self.sentence(),
            )
