"""The forward pass in torch: what a GPU runs, and a CPU without ONNX Runtime.

On a GPU: uint8 over a pinned buffer and a stream of its own, so that it travels while the batch before is
computed; normalised there; bf16, channels_last; compiled if asked for. Shapes: B images, S input size, D
embedding, K bins of a head.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pix2score.model.folder import ModelCard, Weights
from pix2score.model.network import MultiHeadModel, model_from_card, normalise

logger = logging.getLogger(__name__)
Floats = npt.NDArray[np.float32]
Outputs = tuple[dict[str, Tensor], Tensor]


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
    ) -> None:
        """Raises ``DataError`` listing weights that do not fit the card."""
        self.device, self.card, self.num_pieces, self.num_threads = torch.device(device), card, 1, num_threads
        self.is_cuda = self.device.type == "cuda"
        self.bf16 = self.is_cuda and torch.cuda.is_bf16_supported()
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
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.bf16):
            return cast(Outputs, self._run(image_BCHW))

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


def network_of(card: ModelCard, weights: Weights, device: torch.device | str) -> MultiHeadModel:
    """The network in eval mode on ``device``, channels_last."""
    network = model_from_card(card, weights).to(device)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _compiled(network: MultiHeadModel) -> Any:
    """By torch.compile; where that cannot be done, torch says so in its log and the network runs as it is."""
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True
    return torch.compile(network)


def _numpy(tensor: Tensor) -> Floats:
    return tensor.float().cpu().numpy()
