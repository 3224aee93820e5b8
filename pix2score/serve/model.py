"""Single pictures: paths, bytes or Pillow images in, each head's answer out.

No Ray, no catalog, nothing written.

The same decoding, the same forward pass and so the same numbers as a night's ``score``.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from pix2score.errors import ConfigError, ImageFailure
from pix2score.images.decode import picture_to_rgb
from pix2score.images.decoder import Decoder
from pix2score.images.preprocess import Preprocess
from pix2score.images.source import image_source
from pix2score.model.admission import load_asked
from pix2score.model.predictor import Engine, Predictor
from pix2score.storage.places import is_remote, normalise

if TYPE_CHECKING:
    from pix2score.cli.flags import Device  # whose room loads a flags library
    from pix2score.model.card import ModelCard


logger = logging.getLogger(__name__)
Picture: TypeAlias = str | os.PathLike[str] | bytes | Image.Image


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says about one picture: ``heads`` by name, ``embedding`` float32 [D].

    A head says what its kind does, as plain values. An ordered one: ``bin`` (the most probable), ``label``
    (its range, as ``30-50``), ``probs`` (calibrated), ``score`` (expected quantile in 0..1), ``expected`` (in
    the head's own unit).
    """

    heads: dict[str, dict[str, Any]]
    embedding: npt.NDArray[np.float32]


class Model:
    """A trained model for single pictures, in this process.

    Safe to call from several threads: they take turns.
    """

    def __init__(self, predictor: Predictor, engine_facts: dict[str, Any] | None = None) -> None:
        self._predictor = predictor
        self.engine_facts = engine_facts or {}
        """What answers, where fewer bits than float32 were asked for."""
        self._decoder = Decoder(predictor.card.preprocess)
        self._turn = threading.Lock()

    @classmethod
    def load(
        cls,
        place: str,
        *,
        device: Literal[Device, "cuda"] = "cpu",
        batch_size: int = 1,
        engine: Engine = "auto",
    ) -> Model:
        """The model folder at ``place`` (local or S3), ready.

        ``device``: auto (GPU if there is one), cpu or gpu. ``engine``: as ``ScoreConfig`` has it; int8 and
        bf16 where this host shows that they answer like float32, else float32 with a line in the log. Raises
        ``DataError`` if there is no model there, it was altered or lacks what the engine needs,
        ``ConfigError`` if a GPU was asked for and there is none, or an engine that the device does not have.
        """
        of_torch = torch_device(device)
        return cls(*load_asked(place, engine, batch_size=batch_size, device=of_torch))

    @property
    def card(self) -> ModelCard:
        """Heads, preprocessing and version of the model."""
        return self._predictor.card

    def predict(self, pictures: Sequence[Picture]) -> list[Answer | ImageFailure]:
        """An answer per picture in order, or the ``ImageFailure`` that says why there is none.

        A path may be ``s3://bucket/key``. Encoded bytes are decoded in a child process with a memory and a
        time limit, as a night's are.
        """
        with self._turn:
            pixels = [read_pixels(picture, self.card.preprocess, self._decoder) for picture in pictures]
            good = [image for image in pixels if not isinstance(image, ImageFailure)]
            answers = iter(self.answers(np.stack(good)) if good else ())
        return [image if isinstance(image, ImageFailure) else next(answers) for image in pixels]

    def close(self) -> None:
        """End the decoding process, which otherwise ends with this one."""
        self._decoder.close()

    def answers(self, pixels_NSSC: npt.NDArray[np.uint8]) -> list[Answer | ImageFailure]:
        """An answer per picture that ``read_pixels`` has read, uint8 [N, S, S, 3], or NONFINITE.

        Callers in several threads need not take turns.
        """
        prediction = self._predictor.predict(pixels_NSSC)
        return [
            Answer(
                {head.name: head.plain(prediction.heads[head.name], i) for head in self.card.heads},
                prediction.embedding[i],
            )
            if prediction.finite[i]
            else ImageFailure("NONFINITE", "the model's output is NaN or infinite")
            for i in range(len(pixels_NSSC))
        ]


def torch_device(device: Literal[Device, "cuda"]) -> str:
    """The device as torch names it."""
    if device == "cpu":
        return "cpu"
    import torch  # takes seconds, and a CPU needs none

    if torch.cuda.is_available():
        return "cuda"
    if device == "auto":
        return "cpu"
    raise ConfigError(f"--device {device}, but this machine has no GPU that torch can use; use --device cpu")


def read_pixels(
    picture: Picture, preprocess: Preprocess, decoder: Decoder
) -> npt.NDArray[np.uint8] | ImageFailure:
    """The model's input of one picture, uint8 (S, S, 3), or why there is none."""
    try:
        if isinstance(picture, Image.Image):
            return picture_to_rgb(picture, preprocess)
        data = picture if isinstance(picture, bytes) else _content(os.fspath(picture))
        return np.frombuffer(decoder(data), dtype=np.uint8).reshape(preprocess.size, preprocess.size, 3)
    except ImageFailure as failure:
        return failure


def _content(path: str) -> bytes:
    """Bytes at a path that the caller names, hence anywhere. Raises ``ImageFailure``."""
    try:
        place = normalise(path)
    except ConfigError as exc:
        raise ImageFailure("FORBIDDEN", str(exc)) from None
    everything = "/".join(place.split("/")[:3]) if is_remote(place) else "/"
    (content,) = image_source(everything, ()).read_many([path if is_remote(path) else place])
    if isinstance(content, ImageFailure):
        raise content
    return content
