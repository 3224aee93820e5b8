"""``model.json``: what a model is, apart from its weights, and the versions that follow from it.

Read without torch and without the weights, so that a driver can check a model in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pix2score.errors import DataError
from pix2score.heads.kinds import head_from_dict
from pix2score.heads.spec import Calibration, HeadSpec
from pix2score.images.preprocess import Preprocess, preprocess_from_dict
from pix2score.model.backbones import check_form
from pix2score.model.members import Member, member_from_dict
from pix2score.snapshots.tables import EmbeddingDtype
from pix2score.storage.folder import Folder

FORMAT = 2
READABLE_FORMATS = (1, 2)
"""Of the first, heads see the embedding as the trunk gives it: ``embedding_dtype`` is None."""
CARD = "model.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """What a model is, apart from its weights. All but ``about`` and the graph goes into ``version``."""

    backbone: str
    heads: tuple[HeadSpec, ...]
    preprocess: Preprocess
    embedding_dim: int
    temperatures: dict[str, float]
    """Of the heads that a temperature calibrates."""
    weights_sha256: str
    hidden: int = 0
    """Width of the layer between the embedding and the outputs; 0: none."""
    graph_sha256: str | None = None
    """Of ``model.onnx``; None where there is none. Not in ``version``: it follows from the rest."""
    about: dict[str, Any] = field(default_factory=dict)
    """Metrics, training config and package versions."""
    calibrations: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the other heads."""
    members: tuple[Member, ...] = ()
    """The networks of an ensemble, of which the first makes the embedding; none of a single network."""
    embedding_dtype: EmbeddingDtype | None = None
    """What the embedding is rounded to before the heads see it, as it is stored; None: it is not."""
    trunk_sha256: str | None = None
    """``weights_digest`` of the trunk's weights; None of an ensemble and of earlier versions."""

    def calibration(self, head: str) -> Calibration:
        """What the head's outputs are calibrated with; empty where nothing was fitted."""
        if head in self.temperatures:
            return {"temperature": self.temperatures[head]}
        return self.calibrations.get(head, {})

    @property
    def version(self) -> str:
        """12 hex digits over everything that decides a prediction."""
        return _short_hash(self._identity())

    @property
    def trunk_version(self) -> str | None:
        """12 hex digits over everything that decides an embedding as it is stored.

        Models that share it give each picture the same embedding, and their heads answer from it. None where
        there is no such thing: heads of an ensemble see several embeddings, those of earlier versions one
        that is not rounded.
        """
        if self.members or self.trunk_sha256 is None or self.embedding_dtype is None:
            return None
        return _short_hash(
            {
                "backbone": self.backbone,
                "trunk_sha256": self.trunk_sha256,
                "preprocess": asdict(self.preprocess),
                "embedding_dim": self.embedding_dim,
                "embedding_dtype": self.embedding_dtype,
            }
        )

    def _identity(self) -> dict[str, Any]:
        return {
            "backbone": self.backbone,
            "heads": [head.to_dict() for head in self.heads],
            "preprocess": asdict(self.preprocess),
            "embedding_dim": self.embedding_dim,
            "temperatures": self.temperatures,
            **({"calibrations": self.calibrations} if self.calibrations else {}),
            "weights_sha256": self.weights_sha256,
            # Left out where there is none: models made before there could be one keep their version.
            **({"hidden": self.hidden} if self.hidden else {}),
            **({"members": [member.to_dict() for member in self.members]} if self.members else {}),
            **({"embedding_dtype": self.embedding_dtype} if self.embedding_dtype else {}),
            **({"trunk_sha256": self.trunk_sha256} if self.trunk_sha256 else {}),
        }

    def to_json(self) -> bytes:
        """Content of ``model.json``."""
        content = {
            "format": FORMAT if self.embedding_dtype else READABLE_FORMATS[0],
            "model_version": self.version,
            **({"trunk_version": self.trunk_version} if self.trunk_version else {}),
            **self._identity(),
        }
        if self.graph_sha256:
            content["graph_sha256"] = self.graph_sha256
        content["about"] = self.about
        return json.dumps(content, indent=1, ensure_ascii=False).encode()


def _short_hash(plain: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


def load_card(place: str) -> ModelCard:
    """The card of the model at ``place``.

    Raises ``DataError`` if it is not a model, or its card was altered.
    """
    try:
        content = json.loads(Folder(place).read(CARD))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{place} is not a model: no {CARD} there") from None
    except ValueError as exc:
        raise DataError(f"{place}/{CARD} is not JSON: {exc}") from None
    try:
        if content["format"] not in READABLE_FORMATS:
            raise DataError(
                f"{place}/{CARD} has format {content['format']}; this version of pix2score reads "
                f"{' and '.join(map(str, READABLE_FORMATS))}"
            )
        card = _from_plain(content)
        stated = content["model_version"]
        check_form(card.backbone)
    except (KeyError, TypeError, AttributeError) as exc:
        raise DataError(f"{place}/{CARD} is not a model card: {exc!r}") from None
    if card.version != stated:
        raise DataError(
            f"{place}/{CARD} was altered: it says version {stated}, its content is {card.version}"
        )
    if card.trunk_version != content.get("trunk_version"):
        raise DataError(
            f"{place}/{CARD} was altered: it says trunk version {content.get('trunk_version')}, its content "
            f"is {card.trunk_version}"
        )
    return card


def _from_plain(content: Mapping[str, Any]) -> ModelCard:
    return ModelCard(
        backbone=content["backbone"],
        heads=tuple(head_from_dict(head) for head in content["heads"]),
        preprocess=preprocess_from_dict(content["preprocess"]),
        embedding_dim=content["embedding_dim"],
        temperatures=content["temperatures"],
        weights_sha256=content["weights_sha256"],
        hidden=content.get("hidden", 0),
        graph_sha256=content.get("graph_sha256"),
        about=content["about"],
        calibrations=content.get("calibrations", {}),
        members=tuple(member_from_dict(plain) for plain in content.get("members", ())),
        embedding_dtype=content.get("embedding_dtype"),
        trunk_sha256=content.get("trunk_sha256"),
    )
