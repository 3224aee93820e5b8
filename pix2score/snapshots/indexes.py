"""The nearest-neighbour index of a snapshot: which files it is made of.

    index/<snapshot>/index.json             the card, created if absent and last: it makes the folder an index
    index/<snapshot>/projection.safetensors axes onto which embeddings are projected before they are coded
    index/<snapshot>/cells.faiss            the cells and the code, without rows
    index/<snapshot>/questions.safetensors  questions with their exact answers, by which recall is measured
    index/<snapshot>/gone.parquet           positions whose row is no longer live, if there are any
    index/<snapshot>/part-*.codes           rows of a part by cell: position and code of each
    index/<snapshot>/part-*.keys.parquet    key and run of each row, by position
    index/<snapshot>/part-*.vectors         the embeddings as they are stored, row after row

An index that was taken up from an earlier one names that one's parts. ``neighbours`` makes and asks it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pix2score.errors import ConflictError
from pix2score.snapshots.snapshot import Snapshot
from pix2score.storage.folder import Folder

INDEX, CARD, FORMAT = "index", "index.json", 1


@dataclass(frozen=True, slots=True)
class IndexFile:
    """One file of an index, by its path in the scores folder."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class IndexPart:
    """Rows of an index that were written together: positions ``first`` to ``first + rows - 1``."""

    first: int
    rows: int
    codes: IndexFile
    keys: IndexFile
    vectors: IndexFile


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexCard:
    """What an index is of, what it is made of, and how good it is."""

    snapshot: int
    trunk_version: str | None
    embeddings: str
    """``embeddings_id`` of its snapshot: another one that has it has the same embeddings."""
    embedding_dim: int
    embedding_dtype: str
    rows: int
    """Live ones."""
    num_gone: int
    taken_up: int
    """Rows that came or went since all was built."""
    library: str
    num_cells: int
    code_dim: int
    num_probed: int
    """Cells that a question looks at."""
    num_candidates: int
    """Rows whose stored embedding it is compared with."""
    recall: float
    """Share of the ten nearest that it finds, by ``num_questions`` whose exact answer is known."""
    num_questions: int
    projection: IndexFile
    cells: IndexFile
    questions: IndexFile
    gone: IndexFile | None
    parts: tuple[IndexPart, ...]

    @property
    def files(self) -> tuple[IndexFile, ...]:
        """Every file that it names."""
        of_parts = (file for part in self.parts for file in (part.codes, part.keys, part.vectors))
        others = (self.projection, self.cells, self.questions, self.gone)
        return (*(file for file in others if file), *of_parts)

    def to_json(self) -> bytes:
        """Content of its file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode()


def embeddings_id(snapshot: Snapshot) -> str:
    """Equal for snapshots of the same embeddings, such as those of two nights that only heads lie between."""
    files = [*snapshot.files_of("embeddings"), *snapshot.files_of("dead")]
    return hashlib.sha256(",".join(sorted(file.sha256 for file in files)).encode()).hexdigest()[:16]


def folder_of(number: int) -> str:
    """Where the index of a snapshot is."""
    return f"{INDEX}/{number:08}"


def write_index_file(folder: Folder, path: str, data: bytes) -> IndexFile:
    """Publish ``data``; return its facts. Raises as ``Folder.publish``: a path is never used twice."""
    return IndexFile(path, folder.publish(path, data), hashlib.sha256(data).hexdigest())


def publish_index(folder: Folder, card: IndexCard) -> None:
    """Make the index exist. Raises ``ConflictError`` if there is one of this snapshot already."""
    try:
        folder.publish(f"{folder_of(card.snapshot)}/{CARD}", card.to_json())
    except FileExistsError:
        raise ConflictError(
            f"another run made the index of snapshot {card.snapshot} of {folder.uri} first"
        ) from None


def read_indexes(folder: Folder) -> dict[int, IndexCard]:
    """Snapshot -> card of its index, oldest first; without those of a form not known to this version."""
    paths = [entry.path for entry in (folder / INDEX).entries(suffix=f"/{CARD}")]
    contents = (folder / INDEX).read_many(paths)
    found = (_card(contents[path]) for path in paths if path in contents)
    return {card.snapshot: card for card in found if card}


def _card(content: bytes) -> IndexCard | None:
    plain: dict[str, Any] = json.loads(content)
    if plain.pop("format", None) != FORMAT:
        return None
    for name in ("projection", "cells", "questions", "gone"):
        plain[name] = IndexFile(**plain[name]) if plain[name] else None
    plain["parts"] = tuple(_part(part) for part in plain["parts"])
    return IndexCard(**plain)


def _part(plain: dict[str, Any]) -> IndexPart:
    files = {name: IndexFile(**plain[name]) for name in ("codes", "keys", "vectors")}
    return IndexPart(plain["first"], plain["rows"], **files)


def files_of_indexes(cards: Iterable[IndexCard]) -> set[str]:
    """Paths of all files of the indexes, their cards too."""
    cards = list(cards)
    named = {file.path for card in cards for file in card.files}
    return named | {f"{folder_of(card.snapshot)}/{CARD}" for card in cards}
