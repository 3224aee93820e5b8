"""The model folder: its card (``model.card``), ``model.safetensors``, and ``model.onnx`` where it has one.

Nothing is pickled; what does not match is refused. The graph holds no weights: it says where each lies in
``model.safetensors``. Holds weights as numpy arrays and imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from pix2score.errors import DataError, TrainingError
from pix2score.heads.spec import HeadSpec
from pix2score.images.preprocess import Preprocess
from pix2score.model.card import CARD, ModelCard, load_card
from pix2score.model.members import Member
from pix2score.snapshots.tables import EmbeddingDtype
from pix2score.storage.folder import Folder

WEIGHTS, GRAPH = "model.safetensors", "model.onnx"
TRUNK = "trunk."
"""What the names of the trunk's weights begin with."""
Weights = Mapping[str, npt.NDArray[Any]]
Shape = tuple[int, ...]
Span: TypeAlias = tuple[int, int]
"""First byte of a weight in ``model.safetensors``, and the number of its bytes."""
NUM_LISTED = 3
"""Weights that a message names; of the others it says how many."""


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


def spans(safetensors: bytes) -> dict[str, Span]:
    """Where each weight lies in the bytes of a safetensors file."""
    # Its form: 8 bytes with the length of a header of JSON, the header, the tensors.
    start = 8 + int.from_bytes(safetensors[:8], "little")
    header = json.loads(safetensors[8:start])
    places = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: (start + first, end - first) for name, (first, end) in places.items()}


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
