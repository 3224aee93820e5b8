"""The forward pass in torch: what a GPU runs, and a CPU without ONNX Runtime.

On a GPU: uint8 over a pinned buffer and a stream of its own, so that it travels while the batch before is
computed; normalised there; half precision, channels_last; compiled if asked for. Half precision is fp16 where
nothing else is asked for, which GPUs without bf16 have too: its 10 bits of mantissa keep probabilities within
5e-3 of float32's, which bf16's 7 do not (0.009 on a trained ResNet18; ResNet50 on an H200 was 5 % faster in
bf16). A row that leaves fp16's range is computed again in float32.

Shapes: B images, S input size, D embedding, K bins of a head.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pix2score.model.card import ModelCard
from pix2score.model.folder import Weights
from pix2score.model.network import normalise
from pix2score.model.networks import Network, model_from_card

logger = logging.getLogger(__name__)
Floats = npt.NDArray[np.float32]
Outputs = tuple[dict[str, Tensor], Tensor]
HALF = torch.float16
HALVES = {"auto": HALF, "fp16": HALF, "bf16": torch.bfloat16, "fp32": None}
"""By the name of a precision."""


class TorchForward:
    """Batches of one size through one network.

    Once a batch does not fit into the GPU's memory, batches go in halves.
    """

    def __init__(
        self,
        card: ModelCard,
        weights: Weights,
        *,
        device: str,
        num_threads: int | None,
        compiled: bool = False,
        precision: str = "auto",
    ) -> None:
        """``precision``: on a GPU, of ``HALVES``; auto is fp16.

        Raises ``DataError`` listing weights that do not fit the card."""
        self.device, self.card, self.num_pieces, self.num_threads = torch.device(device), card, 1, num_threads
        self.is_cuda = self.device.type == "cuda"
        self.half = HALVES[precision] if self.is_cuda else None
        self.network = network_of(card, weights, self.device)
        self._run: Any = _compiled(self.network) if compiled and self.is_cuda else self.network
        self._upload: Any = torch.cuda.Stream(self.device) if self.is_cuda else None  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def __call__(self, pixels_BSSC: npt.NDArray[np.uint8]) -> tuple[dict[str, Floats], Floats]:
        """Logits [B, K] by head, and embedding [B, D]."""
        if self.num_threads and torch.get_num_threads() != self.num_threads:
            torch.set_num_threads(self.num_threads)  # of this thread: torch keeps one number for each
        while True:
            try:
                parts = [self._outputs(piece) for piece in np.array_split(pixels_BSSC, self.num_pieces)]
                break
            except torch.OutOfMemoryError:
                if self.num_pieces >= len(pixels_BSSC):
                    raise
                self.num_pieces *= 2
                logger.warning(
                    "a batch does not fit into memory: it goes in %d pieces from now on", self.num_pieces
                )
        logits = {name: _numpy(torch.cat([part[name] for part, _ in parts])) for name in parts[0][0]}
        return logits, _numpy(torch.cat([embedding for _, embedding in parts]))

    def _outputs(self, pixels: npt.NDArray[np.uint8]) -> Outputs:
        image_BCHW = normalise(self._uploaded(pixels), self.card.preprocess)
        with torch.autocast("cuda", dtype=self.half, enabled=self.half is not None):
            outputs = cast(Outputs, self._run(image_BCHW))
        return within_range(outputs, lambda: self.network(image_BCHW)) if self.half is not None else outputs

    def _uploaded(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        if self._upload is None:
            return torch.from_numpy(np.array(pixels))
        pinned = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
        pinned.numpy()[:] = pixels
        with torch.cuda.stream(self._upload):
            there = pinned.to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._upload)
        there.record_stream(computing)
        return there


def within_range(outputs: Outputs, exactly: Callable[[], Outputs]) -> Outputs:
    """``outputs`` as float32; rows with a NaN or an infinity are those of ``exactly``, asked for only if
    there are any."""
    logits, embedding_BD = {name: tensor.float() for name, tensor in outputs[0].items()}, outputs[1].float()
    finite = [tensor.isfinite().all(dim=1, keepdim=True) for tensor in (embedding_BD, *logits.values())]
    good_B1 = torch.stack(finite).all(dim=0)
    if good_B1.all():
        return logits, embedding_BD
    exact, exact_BD = exactly()
    kept = {name: tensor.where(good_B1, exact[name]) for name, tensor in logits.items()}
    return kept, embedding_BD.where(good_B1, exact_BD)


def network_of(card: ModelCard, weights: Weights, device: torch.device | str) -> Network:
    """The network in eval mode on ``device``, channels_last."""
    network = model_from_card(card, weights).to(device)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _compiled(network: Network) -> Any:
    """By torch.compile; where that cannot be done, torch says so in its log and the network runs as it is."""
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True
    return torch.compile(network)


def _numpy(tensor: Tensor) -> Floats:
    return tensor.float().cpu().numpy()
