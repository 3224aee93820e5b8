"""Single pictures: paths, bytes or Pillow images in, each head's answer out. No Ray, no catalog, nothing written.

The same decoding, the same forward pass and so the same numbers as a night's ``score``.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import tyro
from PIL import Image

from pix2score.decoder import Decoder
from pix2score.errors import ConfigError, DataError, ImageFailure, JobFailed
from pix2score.image_source import image_source
from pix2score.images import Preprocess, picture_to_rgb
from pix2score.places import is_s3, normalise
from pix2score.predictor import HeadPrediction, Predictor, load_predictor

if TYPE_CHECKING:
    from pix2score.artifact import ModelCard

logger = logging.getLogger(__name__)
Picture: TypeAlias = str | os.PathLike[str] | bytes | Image.Image


@dataclass(frozen=True, slots=True)
class HeadAnswer:
    """What one head says about one picture."""

    bin: int
    """Most probable bin."""
    label: str
    """Its range, as ``30-50``."""
    probs: list[float]
    """Calibrated probability of each bin."""
    score: float
    """Expected quantile in 0..1: comparable between heads."""
    expected: float
    """Expected value in the head's own unit."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says about one picture: ``heads`` by name, ``embedding`` float32 [D]."""

    heads: dict[str, HeadAnswer]
    embedding: npt.NDArray[np.float32]


class Model:
    """A trained model for single pictures, in this process. Safe to call from several threads: they take turns."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._decoder = Decoder(predictor.card.preprocess)
        self._turn = threading.Lock()

    @classmethod
    def load(cls, place: str, *, device: str = "cpu", batch_size: int = 1) -> Model:
        """The model folder at ``place`` (local or S3), ready. ``device``: cpu or cuda.

        Raises ``DataError`` if there is no model there or it was altered.
        """
        return cls(load_predictor(place, batch_size=batch_size, device=device, num_threads=None))

    @property
    def card(self) -> ModelCard:
        """Heads, preprocessing and version of the model."""
        return self._predictor.card

    def predict(self, pictures: Sequence[Picture]) -> list[Answer | ImageFailure]:
        """An answer per picture in order, or the ``ImageFailure`` (``code``, ``detail``) that says why there is none.

        A path may be ``s3://bucket/key``. Encoded bytes are decoded in a child process with a memory and a time limit, as a night's are.
        """
        with self._turn:
            pixels = [_pixels(picture, self.card.preprocess, self._decoder) for picture in pictures]
            good = [image for image in pixels if not isinstance(image, ImageFailure)]
            answers = iter(self._answers(np.stack(good)) if good else ())
        return [image if isinstance(image, ImageFailure) else next(answers) for image in pixels]

    def close(self) -> None:
        """End the decoding process, which otherwise ends with this one."""
        self._decoder.close()

    def _answers(self, pixels_NSSC: npt.NDArray[np.uint8]) -> list[Answer | ImageFailure]:
        prediction = self._predictor.predict(pixels_NSSC)
        labels = {head.name: head.labels() for head in self.card.heads}
        return [
            Answer({name: _head_answer(head, i, labels[name]) for name, head in prediction.heads.items()}, prediction.embedding[i])
            if prediction.finite[i]
            else ImageFailure("NONFINITE", "the model's output is NaN or infinite")
            for i in range(len(pixels_NSSC))
        ]


def _head_answer(head: HeadPrediction, row: int, labels: dict[str, str]) -> HeadAnswer:
    best = int(head.bin[row])
    return HeadAnswer(best, labels[str(best)], head.probs[row].tolist(), float(head.score[row]), float(head.expected[row]))


def _pixels(picture: Picture, preprocess: Preprocess, decoder: Decoder) -> npt.NDArray[np.uint8] | ImageFailure:
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
    everything = "/".join(place.split("/")[:3]) if is_s3(place) else "/"
    (content,) = image_source(everything, ()).read_many([path if is_s3(path) else place])
    if isinstance(content, ImageFailure):
        raise content
    return content


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictConfig:
    """Settings of ``jobs.predict``."""

    model: str
    """Model folder that jobs.train made."""
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE…")]
    """Image files, local or s3://bucket/key."""
    json: bool = False
    """One JSON line per image instead of a table: the ranges of every head's bins, and its bin, label, probs, score and expected."""
    device: Literal["cpu", "cuda"] = "cpu"
    """What the model runs on."""

    def __post_init__(self) -> None:
        if not self.images:
            raise ConfigError("no image given; name at least one file after the flags")


def predict(config: PredictConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """``say`` has got every answer; a bad image was named on standard error. The summary comes back.

    Raises ``DataError`` after doing all others, if an image gave no answer.
    """
    model = Model.load(config.model, device=config.device)
    failed: dict[str, str] = {}
    for path in config.images:
        (answer,) = model.predict([path])
        if isinstance(answer, ImageFailure):
            failed[path] = str(answer)
            print(f"jobs.predict: {path}: {answer}", file=sys.stderr, flush=True)
        else:
            say(_json_line(answer_json(path, answer, model.card)) if config.json else _printable(answer_text(path, answer)))
    model.close()
    summary = {"job": "predict", "model_version": model.card.version, "images": len(config.images), "failed": len(failed)}
    if failed:
        error = DataError(f"{len(failed)} of {len(config.images)} images gave no answer: {', '.join(failed)}")
        JobFailed(summary, error).attach()
        raise error
    return summary


def _json_line(content: dict[str, Any]) -> str:
    """In characters where standard output takes them, else with escapes: the same content."""
    line = json.dumps(content, ensure_ascii=False)
    return line if _printable(line) == line else json.dumps(content)


def _printable(text: str) -> str:
    """``text`` with escapes for what standard output's encoding lacks: a name must not end the run."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def answer_json(path: str, answer: Answer, card: ModelCard) -> dict[str, Any]:
    """The reference system's format, ``<h>_predict`` -> bin -> range, and beside it what each head answers under ``<h>``."""
    ranges = {f"{head.name}_predict": head.labels() for head in card.heads}
    return {"image": path, **ranges, **{name: asdict(head) for name, head in answer.heads.items()}}


def answer_text(path: str, answer: Answer) -> str:
    """A few lines for a person: each head's bin with its probability, the expected value and the score."""
    width = max(len(name) for name in answer.heads)
    lines = [
        f"  {name:<{width}}  {head.label:>12} ({head.probs[head.bin]:4.0%})   expected {head.expected:>12,.4g}   score {head.score:.3f}"
        for name, head in answer.heads.items()
    ]
    return "\n".join([path, *lines])
