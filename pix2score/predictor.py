"""The fast forward pass: uint8 pixels in, calibrated probabilities and embeddings out, on the device at hand.

Shapes: N images given, B fixed batch, S input size, D embedding, K bins of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from pix2score import bins
from pix2score.artifact import ModelCard, Weights, load_model
from pix2score.errors import ConfigError
from pix2score.heads import HeadSpec
from pix2score.model import model_from_card, normalise

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class HeadPrediction:
    """One head on N images: ``probs`` float32 [N, K], calibrated; ``bin`` int16 [N], their argmax; ``score`` float32 [N] in [0, 1], the
    expected quantile; ``expected`` float32 [N] in the head's own unit."""

    probs: Floats
    bin: npt.NDArray[np.int16]
    score: Floats
    expected: Floats


@dataclass(frozen=True, slots=True)
class Prediction:
    """All heads on N images, ``embedding`` float32 [N, D], and ``finite`` bool [N]: False where an output is NaN or infinite."""

    heads: dict[str, HeadPrediction]
    embedding: Floats
    finite: npt.NDArray[np.bool_]


class Predictor:
    """A loaded model. Every forward pass has the same shape [B, S, S, 3], padded with black, so that a result does not depend on how
    many other images are in the batch."""

    def __init__(self, card: ModelCard, weights: Weights, *, batch_size: int, device: str | torch.device = "cpu") -> None:
        """``device``: cpu or cuda, said by the caller: a process may see a GPU that it was not given."""
        if batch_size < 1:
            raise ConfigError(f"batch size {batch_size}: at least 1")
        self.card, self.batch_size = card, batch_size
        self.device = torch.device(device)
        model = model_from_card(card, weights).to(self.device)
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.autocast = self.device.type == "cuda" and torch.cuda.is_bf16_supported()

    @torch.inference_mode()
    def predict(self, pixels_NSSC: npt.NDArray[np.uint8]) -> Prediction:
        """Predictions of N >= 0 images, uint8 RGB [N, S, S, 3] as ``images.to_rgb`` gives them."""
        starts = range(0, len(pixels_NSSC), self.batch_size)
        parts = [self._forward(pixels_NSSC[i : i + self.batch_size]) for i in starts]
        embedding = _joined([embedding for _, embedding in parts], self.card.embedding_dim)
        logits = {h.name: _joined([part[h.name] for part, _ in parts], h.num_bins) for h in self.card.heads}
        finite = np.logical_and.reduce([np.isfinite(part).all(axis=1) for part in (embedding, *logits.values())])
        heads = {h.name: decode(h, logits[h.name], self.card.temperatures.get(h.name, 1.0)) for h in self.card.heads}
        return Prediction(heads, embedding, finite)

    def _forward(self, pixels_nSSC: npt.NDArray[np.uint8]) -> tuple[dict[str, Floats], Floats]:
        n, size = len(pixels_nSSC), self.card.preprocess.size
        padded = torch.zeros((self.batch_size, size, size, 3), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        padded[:n] = torch.from_numpy(np.array(pixels_nSSC))
        image_BCHW = normalise(padded.to(self.device, non_blocking=True), self.card.preprocess)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.autocast):
            logits, embedding_BD = self.model(image_BCHW)
        return {name: _numpy(tensor[:n]) for name, tensor in logits.items()}, _numpy(embedding_BD[:n])


def load_predictor(model: str, *, batch_size: int, device: str, num_threads: int | None) -> Predictor:
    """The predictor of the model folder ``model`` for this process; ``num_threads`` of torch on the CPU, None for its default."""
    if num_threads:
        torch.set_num_threads(num_threads)
    return Predictor(*load_model(model), batch_size=batch_size, device=device)


def _numpy(tensor: Tensor) -> Floats:
    return tensor.float().cpu().numpy()


def _joined(parts: list[Floats], width: int) -> Floats:
    return np.concatenate(parts) if parts else np.zeros((0, width), dtype=np.float32)


def _decode_ordered(head: HeadSpec, logits_NK: Floats, temperature: float) -> HeadPrediction:
    scaled = np.nan_to_num(logits_NK.astype(np.float64), posinf=0.0, neginf=0.0) / temperature
    exp = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probs = exp / exp.sum(axis=1, keepdims=True)
    probs_f32 = probs.astype(np.float32)
    counts, typical = head.counts or [1] * head.num_bins, head.typical or tuple(range(head.num_bins))
    return HeadPrediction(
        probs=probs_f32,
        bin=probs_f32.argmax(axis=1).astype(np.int16),
        score=(probs @ bins.mid_ranks(counts)).clip(0, 1).astype(np.float32),
        expected=(probs @ np.asarray(typical, dtype=np.float64)).astype(np.float32),
    )


_DECODE_BY_KIND = {"bins": _decode_ordered, "levels": _decode_ordered}


def decode(head: HeadSpec, logits_NK: Floats, temperature: float) -> HeadPrediction:
    """What the logits of a head mean. Non-finite logits give finite nonsense: the caller fails those rows."""
    return _DECODE_BY_KIND[head.kind](head, logits_NK, temperature)


def head_columns(head: HeadSpec, prediction: HeadPrediction) -> dict[str, pa.Array]:
    """Arrow columns of one head, as ``schema.head_fields`` lists them."""
    probs = pa.FixedSizeListArray.from_arrays(pa.array(prediction.probs.ravel()), head.num_bins)
    return {
        f"{head.name}_bin": pa.array(prediction.bin),
        f"{head.name}_probs": probs,
        f"{head.name}_score": pa.array(prediction.score),
        f"{head.name}_expected": pa.array(prediction.expected),
    }
