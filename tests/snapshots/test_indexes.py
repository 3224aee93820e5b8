"""Cards of indexes: the newest that serves is found without the others."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

from pix2score.snapshots.indexes import IndexCard, IndexFile, IndexPart, each_index, publish_index
from pix2score.storage.folder import Folder


def file(name: str) -> IndexFile:
    return IndexFile(f"index/00000001/{name}", 134_217_728, "0123456789abcdef" * 4)


def card_of(snapshot: int, num_parts: int) -> IndexCard:
    parts = (
        IndexPart(i, 1, *(file(f"part-{i:016x}.{kind}") for kind in ("codes", "keys.parquet", "vectors")))
        for i in range(num_parts)
    )
    return IndexCard(
        snapshot=snapshot, trunk_version=None, embeddings="", embedding_dim=1, embedding_dtype="float16",
        rows=1, num_gone=0, taken_up=0, library="", num_cells=1, code_dim=1, num_probed=1, num_candidates=1,
        recall=1.0, num_questions=1, projection=file("a"), cells=file("b"), questions=file("c"), gone=None,
        parts=tuple(parts),
    )  # fmt: skip


def test_cards_are_read_one_at_a_time_the_newest_first(tmp_path: Path) -> None:
    """At a billion rows each names 92,000 files, and vacuum keeps 14 snapshots."""
    folder, num_parts, num_cards = Folder(str(tmp_path)), 300, 12
    for number in range(1, num_cards + 1):
        publish_index(folder, card_of(number, num_parts))
    tracemalloc.start()
    try:
        assert [card.snapshot for card in each_index(folder)] == list(range(num_cards, 0, -1))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6_000 * num_parts  # all together 1,900 for each part of each
