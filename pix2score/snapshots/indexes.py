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
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pix2score.errors import ConflictError, DataError
from pix2score.snapshots.snapshot import Snapshot
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)
INDEX, CARD, FORMAT = "index", "index.json", 1
_SEAL = "sha256"
"""Of all else that a card says: it names the hash of every other file, and nothing names its own. ``verify``
looks at it."""


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
        return json.dumps({"format": FORMAT, **asdict(self), _SEAL: self.seal}, indent=1).encode()

    @property
    def seal(self) -> str:
        """Hash of all that it says."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def embeddings_id(snapshot: Snapshot) -> str:
    """Equal for snapshots of the same embeddings, such as those of two nights that only heads lie between."""
    files = [*snapshot.files_of("embeddings"), *snapshot.files_of("dead")]
    return hashlib.sha256(",".join(sorted(file.sha256 for file in files)).encode()).hexdigest()[:16]


def serves(card: IndexCard, snapshot: Snapshot) -> bool:
    """Whether an index, be it of another snapshot, has the embeddings of ``snapshot``."""
    is_own = card.snapshot in (snapshot.number, *snapshot.same_scores)
    return is_own or card.embeddings == embeddings_id(snapshot)


def folder_of(number: int) -> str:
    """Where the index of a snapshot is."""
    return f"{INDEX}/{number:08}"


def write_index_file(folder: Folder, path: str, data: bytes) -> IndexFile:
    """Publish ``data``; return its facts. Raises as ``Folder.publish``: a path is never used twice."""
    return IndexFile(path, folder.publish(path, data), hashlib.sha256(data).hexdigest())


def card_path(number: int) -> str:
    """Where the card of a snapshot's index is."""
    return f"{folder_of(number)}/{CARD}"


def replace_index(folder: Folder, card: IndexCard) -> None:
    """Make the index take the place of one of this snapshot that was found to be of no use."""
    folder.publish(card_path(card.snapshot), card.to_json(), replace=True)


def publish_index(folder: Folder, card: IndexCard) -> None:
    """Make the index exist. Raises ``ConflictError`` if there is one of this snapshot already."""
    try:
        folder.publish(card_path(card.snapshot), card.to_json())
    except FileExistsError:
        raise ConflictError(
            f"another run made the index of snapshot {card.snapshot} of {folder.uri} first"
        ) from None


def each_index(folder: Folder) -> Iterator[IndexCard]:
    """Cards of all indexes, the newest first; without those of a form not known to this version.

    One is in memory at a time, with some kilobyte a part. One that is damaged is left out with a warning.
    """
    for number in reversed(numbers_of_indexes(folder)):
        path = card_path(number)
        try:
            card = _card(path, folder.read(path))
        except FileNotFoundError:  # removed meanwhile
            continue
        except DataError as exc:
            logger.warning("an index is left out: %s", exc)
            continue
        if card:
            yield card


def numbers_of_indexes(folder: Folder) -> list[int]:
    """Snapshots that have the card of an index, damaged or not, ascending."""
    names = [entry.path.removesuffix(f"/{CARD}") for entry in (folder / INDEX).entries(suffix=f"/{CARD}")]
    return sorted(int(name) for name in names if name.isdigit())


def read_index(folder: Folder, number: int) -> IndexCard | None:
    """The card of a snapshot's index; None if it has none that is known to this version.

    Raises ``DataError`` for one of which any byte was altered.
    """
    path = card_path(number)
    try:
        content = folder.read(path)
    except FileNotFoundError:
        return None
    card = _card(path, content)
    if card and json.loads(content).get(_SEAL, card.seal) != card.seal:  # the first had none
        raise DataError(f"{path} was altered")
    return card


def _card(path: str, content: bytes) -> IndexCard | None:
    """Raises ``DataError`` for one that cannot be read, or of another snapshot."""
    try:
        plain: dict[str, Any] = json.loads(content)
        if plain.pop("format") != FORMAT:
            return None
        plain.pop(_SEAL, None)
        for name in ("projection", "cells", "questions", "gone"):
            plain[name] = IndexFile(**plain[name]) if plain[name] else None
        plain["parts"] = tuple(_part(part) for part in plain["parts"])
        card = IndexCard(**plain)
        is_in_place = card_path(card.snapshot) == path
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise DataError(f"{path} was altered: {exc!r}") from None
    if not is_in_place:
        raise DataError(f"{path} was altered: it says that it is of snapshot {card.snapshot}")
    return card


def _part(plain: dict[str, Any]) -> IndexPart:
    files = {name: IndexFile(**plain[name]) for name in ("codes", "keys", "vectors")}
    return IndexPart(plain["first"], plain["rows"], **files)


def files_of_index(card: IndexCard) -> set[str]:
    """Paths of all files of an index, its card too."""
    return {file.path for file in card.files} | {card_path(card.snapshot)}
