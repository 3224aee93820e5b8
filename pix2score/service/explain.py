"""Where a head looks, as pictures in an answer: one network in torch, asked by one thread."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pix2score.errors import DataError, UserError
from pix2score.service.decoders import RGB

if TYPE_CHECKING:
    from pix2score.evaluate.saliency import Saliency  # imports torch
    from pix2score.heads.spec import HeadSpec
    from pix2score.model.predictor import Predictor

logger = logging.getLogger(__name__)


class Explainer:
    """Grad-CAM of a model's heads; ``why_not`` says why there is none."""

    def __init__(self, saliency: Saliency | None, why_not: str) -> None:
        self._saliency, self.why_not = saliency, why_not
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="explain")

    @classmethod
    def of(cls, predictor: Predictor, is_wanted: bool, num_threads: int) -> Explainer:
        """Load torch and the network, which takes seconds: before requests come."""
        if not is_wanted:
            return cls(None, "this service was started without it (explain)")
        import torch

        from pix2score.evaluate.saliency import Saliency

        torch.set_num_threads(num_threads)
        try:
            saliency = Saliency(predictor)  # a backbone that timm lacks has its graph to answer with
            saliency.check()
        except UserError as exc:
            return cls(None, str(exc))
        return cls(saliency, "")

    @property
    def is_able(self) -> bool:
        """Whether there are such pictures."""
        return self._saliency is not None

    async def shown(self, heads: Sequence[HeadSpec], pixels_SSC: RGB) -> dict[str, Any]:
        """``where``: head -> data URL of a JPEG, or ``where_error``: one line; nothing if no head is asked
        for."""
        if not heads:
            return {}
        if self._saliency is None:
            return {"where_error": self.why_not}
        loop = asyncio.get_running_loop()
        try:
            found = [await loop.run_in_executor(self._pool, self._one, head, pixels_SSC) for head in heads]
        except DataError as exc:
            return {"where_error": str(exc)}
        return {"where": {head.name: url for head, url in zip(heads, found, strict=True)}}

    def _one(self, head: HeadSpec, pixels_SSC: RGB) -> str:
        from pix2score.evaluate.saliency import overlay

        assert self._saliency is not None, "asked without one"
        (map_SS,) = self._saliency.of(head, pixels_SSC[None])
        return data_url(overlay(pixels_SSC, map_SS))

    def close(self) -> None:
        """Begin no further picture."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def data_url(jpeg: bytes) -> str:
    """The picture as a text that a page shows."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
