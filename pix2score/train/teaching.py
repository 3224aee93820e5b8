"""``--teacher``: the model whose answers a training learns from, found by the driver, loaded by workers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pix2score.errors import ConfigError, DataError
from pix2score.heads.spec import HeadSpec
from pix2score.images.preprocess import Preprocess
from pix2score.model.card import ModelCard, load_card
from pix2score.model.folder import load_model
from pix2score.storage.folder import Folder

if TYPE_CHECKING:
    import torch

    from pix2score.train.step.distillation import Teacher

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherPlace:
    """A teacher, as plain values."""

    uri: str
    version: str
    """``model_version``."""
    weight: float
    """Of its answers in the loss of the heads that it has."""
    heads: tuple[str, ...]
    """Those of the student that it has too."""

    def to_dict(self) -> dict[str, Any]:
        """What the model's card and the summary say of it."""
        return asdict(self)


def find_teacher(
    place: str, weight: float, heads: Sequence[HeadSpec], preprocess: Preprocess
) -> TeacherPlace:
    """The teacher at ``place`` of a student with ``heads``; log what it teaches.

    Raises ``ConfigError`` naming a head that it has in another form, or if it has none; ``DataError`` if
    there is no model.
    """
    card, uri = load_card(place), Folder(place).uri
    theirs = {head.name: head for head in card.heads}
    shared = [head for head in heads if head.name in theirs]
    differences = [d for head in shared if (d := theirs[head.name].difference_from(head))]
    if differences:
        raise ConfigError(
            f"teacher {place} and the dataset do not match: {'; '.join(differences)}; take a teacher "
            "that learnt from a dataset with the same heads"
        )
    if not shared:
        raise ConfigError(
            f"teacher {place} has heads {', '.join(theirs)}, the dataset {', '.join(h.name for h in heads)}: "
            "none that both have"
        )
    logger.info(
        "teacher %s (version %s): weighs %g in the loss of %s",
        *(place, card.version, weight, ", ".join(head.name for head in shared)),
    )
    if alone := [head.name for head in heads if head.name not in theirs]:
        logger.info("%s: not in the teacher, learnt from labels alone", ", ".join(alone))
    _say_pixels(card, preprocess)
    return TeacherPlace(
        uri=uri, version=card.version, weight=weight, heads=tuple(head.name for head in shared)
    )


def _say_pixels(card: ModelCard, student: Preprocess) -> None:
    own = card.preprocess
    if own.size != student.size:
        logger.info(
            "the teacher sees the student's pictures of %d px resized to its own %d px",
            *(student.size, own.size),
        )
    if own.resize != student.resize:
        logger.warning(
            "the teacher learnt from pictures made square by %s, and sees the student's, made so by %s",
            *(own.resize, student.resize),
        )


def load_teacher(
    place: TeacherPlace, heads: Sequence[HeadSpec], preprocess: Preprocess, device: torch.device
) -> Teacher:
    """The teacher's network on ``device``. Raises ``DataError`` if another model is there by now."""
    from pix2score.model.networks import model_from_card
    from pix2score.train.step.distillation import Teacher

    card, weights = load_model(place.uri)
    if card.version != place.version:
        raise DataError(
            f"teacher {place.uri} is version {card.version} now, and was {place.version} when this training "
            "began; give it a place that stays as it is"
        )
    return Teacher(model_from_card(card, weights), card, preprocess, heads, place.weight, device)
