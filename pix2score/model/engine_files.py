"""What lies beside a model for engines of fewer bits: ``engines.json``, and the files that it lists by hash.

``parity.safetensors``, what such an engine is checked by, and ``model.int8.onnx``, the trunk in 8 bits where
it was made. Not part of the model: its version stays, and a version of this package that does not know them
reads the folder as before.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pix2score.errors import DataError
from pix2score.model.card import ModelCard
from pix2score.model.parity import ParitySet, read_parity
from pix2score.storage.folder import Folder

FORMAT = 1
CARD, INT8, PARITY = "engines.json", "model.int8.onnx", "parity.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineCard:
    """Content of ``engines.json``."""

    model_version: str
    """Of the model that they were made for."""
    parity_sha256: str
    int8_sha256: str | None = None
    about: dict[str, Any] = field(default_factory=dict)
    """How far answers moved where they were made, and with which packages."""


def how_to_make(place: str, engine: str) -> str:
    """The command, as the end of a message."""
    return f"python -m jobs.export --model {place} --engine {engine} --calibrate DATASET makes it"


def save_engine_files(
    place: str, card: ModelCard, parity: ParitySet, int8: bytes | None, about: dict[str, Any]
) -> int:
    """Write them beside the model, the card last; return their bytes."""
    folder, data = Folder(place), parity.to_bytes()
    made = EngineCard(
        model_version=card.version,
        parity_sha256=hashlib.sha256(data).hexdigest(),
        int8_sha256=None if int8 is None else hashlib.sha256(int8).hexdigest(),
        about=about,
    )
    content = json.dumps({"format": FORMAT, **asdict(made)}, indent=1, ensure_ascii=False).encode()
    size = folder.publish(PARITY, data, replace=True)
    size += folder.publish(INT8, int8, replace=True) if int8 is not None else 0
    return size + folder.publish(CARD, content, replace=True)


def load_engine_card(place: str, card: ModelCard, engine: str) -> EngineCard:
    """The card at ``place``. Raises ``DataError`` where ``engine`` finds none that is of this model."""
    try:
        content = json.loads(Folder(place).read(CARD))
        if content.pop("format") != FORMAT:
            raise DataError(
                f"{place}/{CARD} is of another version of pix2score: {how_to_make(place, engine)}"
            )
        found = EngineCard(**content)
    except FileNotFoundError:
        raise DataError(
            f"engine {engine}: {place} has no {CARD}, which says what to check it by: "
            f"{how_to_make(place, engine)}"
        ) from None
    except (ValueError, KeyError, TypeError) as exc:
        raise DataError(f"{place}/{CARD} cannot be read ({exc}): {how_to_make(place, engine)}") from None
    if found.model_version != card.version:
        raise DataError(
            f"{place}/{CARD} is of model {found.model_version}, the model is {card.version}: "
            f"{how_to_make(place, engine)}"
        )
    if engine == "int8" and found.int8_sha256 is None:
        raise DataError(f"engine int8: {place} has no {INT8}: {how_to_make(place, engine)}")
    return found


def load_int8(place: str, found: EngineCard) -> bytes:
    """The trunk in 8 bits. Raises ``DataError`` if it is gone or was altered."""
    return _content(place, INT8, str(found.int8_sha256))


def load_parity(place: str, found: EngineCard) -> ParitySet:
    """What an engine is checked by. Raises ``DataError`` if it is gone or was altered."""
    return read_parity(_content(place, PARITY, found.parity_sha256))


def _content(place: str, name: str, sha256: str) -> bytes:
    try:
        data = Folder(place).read(name)
    except FileNotFoundError:
        raise DataError(f"{place}/{name} is gone: {how_to_make(place, 'int8')}") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(f"{place}/{name} is not the one that {CARD} lists: {how_to_make(place, 'int8')}")
    return data
