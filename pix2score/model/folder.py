"""The model folder: ``model.json``, ``model.safetensors``, and ``model.onnx`` where the network has one.

Nothing is pickled; what does not match is refused. The graph holds no weights: it says where each lies in
``model.safetensors``.

Holds weights as numpy arrays and imports no torch, so that a driver can check a model in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from pix2score.errors import DataError, TrainingError
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
CARD, WEIGHTS, GRAPH = "model.json", "model.safetensors", "model.onnx"
TRUNK = "trunk."
"""What the names of the trunk's weights begin with."""
Weights = Mapping[str, npt.NDArray[Any]]
Shape = tuple[int, ...]
Span: TypeAlias = tuple[int, int]
"""First byte of a weight in ``model.safetensors``, and the number of its bytes."""
NUM_LISTED = 3
"""Weights that a message names; of the others it says how many."""


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


def save_model(
    place: str,
    weights: Weights,
    *,
    backbone: str,
    heads: tuple[HeadSpec, ...],
    preprocess: Preprocess,
    embedding_dim: int,
    temperatures: dict[str, float],
    about: dict[str, Any],
    calibrations: dict[str, dict[str, Any]] | None = None,
    hidden: int = 0,
    members: tuple[Member, ...] = (),
    embedding_dtype: EmbeddingDtype | None = "float16",
    graph: Callable[[ModelCard, Mapping[str, Span]], bytes | None] = lambda *_: None,
) -> ModelCard:
    """Write the model to ``place``, weights first, the card that makes it a model last; return the card.

    ``graph``: what makes ``model.onnx`` from the card and the places of the weights; None for none.

    Raises ``TrainingError`` naming the first weight or buffer that is not finite: such a model is never
    saved.
    """
    for name, tensor in weights.items():
        if not np.isfinite(tensor).all():
            raise TrainingError(f"model not saved: {name} holds NaN or infinity")
    data = save_tensors({name: np.asarray(tensor, order="C") for name, tensor in sorted(weights.items())})
    card = ModelCard(
        backbone=backbone,
        heads=heads,
        preprocess=preprocess,
        embedding_dim=embedding_dim,
        temperatures=temperatures,
        weights_sha256=hashlib.sha256(data).hexdigest(),
        hidden=hidden,
        about=about,
        calibrations=calibrations or {},
        members=members,
        embedding_dtype=embedding_dtype,
        trunk_sha256=None if members else weights_digest(trunk_weights(weights)),
    )
    made, folder = graph(card, spans(data)), Folder(place)
    folder.publish(WEIGHTS, data, replace=True)
    if made is not None:
        folder.publish(GRAPH, made, replace=True)
        card = replace(card, graph_sha256=hashlib.sha256(made).hexdigest())
    folder.publish(CARD, card.to_json(), replace=True)
    return card


def trunk_weights(weights: Weights) -> dict[str, npt.NDArray[Any]]:
    """Those that an embedding depends on."""
    return {name: tensor for name, tensor in weights.items() if name.startswith(TRUNK)}


def weights_digest(weights: Weights) -> str:
    """Sha256, 64 hex digits, over names, types, shapes and numbers of ``weights``."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        found.update(np.ascontiguousarray(tensor).data)
    return found.hexdigest()


def _short_hash(plain: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:12]


def spans(safetensors: bytes) -> dict[str, Span]:
    """Where each weight lies in the bytes of a safetensors file."""
    # Its form: 8 bytes with the length of a header of JSON, the header, the tensors.
    start = 8 + int.from_bytes(safetensors[:8], "little")
    header = json.loads(safetensors[8:start])
    places = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: (start + first, end - first) for name, (first, end) in places.items()}


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
        card = ModelCard(
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


def load_model(place: str) -> tuple[ModelCard, dict[str, npt.NDArray[Any]]]:
    """Card and weights of the model at ``place``.

    Raises ``DataError`` if it is not a model or was altered.
    """
    card = load_card(place)
    try:
        data = Folder(place).read(WEIGHTS)
    except FileNotFoundError:
        raise DataError(f"{place} is not a model: no {WEIGHTS} there") from None
    digest = hashlib.sha256(data).hexdigest()
    if digest != card.weights_sha256:
        raise DataError(
            f"{place}/{WEIGHTS} was altered: sha256 {digest[:12]}…, {CARD} says {card.weights_sha256[:12]}…"
        )
    try:
        weights = load_tensors(data)
    except SafetensorError as exc:
        raise DataError(f"{place}/{WEIGHTS} cannot be read: {exc}") from None
    if card.trunk_sha256 and card.trunk_sha256 != weights_digest(trunk_weights(weights)):
        raise DataError(f"{place}/{CARD} was altered: its trunk_sha256 is not of the trunk in {WEIGHTS}")
    return card, weights


def load_graph(place: str, card: ModelCard) -> bytes | None:
    """``model.onnx`` of the model at ``place``; None if its card knows of none, or the file is gone.

    Raises ``DataError`` if the file was altered.
    """
    if card.graph_sha256 is None:
        return None
    try:
        data = Folder(place).read(GRAPH)
    except FileNotFoundError:
        return None
    digest = hashlib.sha256(data).hexdigest()
    if digest != card.graph_sha256:
        raise DataError(
            f"{place}/{GRAPH} was altered: sha256 {digest[:12]}…, {CARD} says {card.graph_sha256[:12]}…; "
            "removed, it is made anew whenever it is needed"
        )
    return data


def check_shapes(found: Mapping[str, Shape], wanted: Mapping[str, Shape], what: str) -> None:
    """Raise ``DataError`` listing weights that are missing, surplus or of another shape than wanted.

    ``what`` names the owner of the weights found.
    """
    problems = [f"lacks {name}" for name in wanted if name not in found]
    problems += [f"has unknown {name}" for name in found if name not in wanted]
    problems += [
        f"{name} is {found[name]}, expected {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if problems:
        rest = len(problems) - NUM_LISTED
        more = f" and {rest} more" if rest > 0 else ""
        raise DataError(f"weights of {what} do not fit: {'; '.join(problems[:NUM_LISTED])}{more}")
