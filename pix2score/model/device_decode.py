"""Plain JPEGs decoded and resized where the model runs: by nvJPEG on a GPU, by libjpeg-turbo on a CPU.

At 224 px the pixels are within 2 of 255 of ``images.decode.to_rgb``'s, on average over photographs, sparse
and dense line art of 300 to 3,000 px. Measured were 0.03 to 1.2 with libjpeg-turbo and 0.05 to 1.23 with
nvJPEG (H200), most on dense line art of 1,200 px, which ``to_rgb`` decodes at half its size; and 0.15 at most
between libjpeg-turbo and a whole decode by Pillow. nvJPEG repeats colours where others interpolate them,
which shows in pictures that are enlarged: ``images.formats.plain_jpeg`` leaves those out.

For pictures that one trusts, unlike ``images.decoder``: a codec that crashes on hostile bytes takes its
process with it, and where a file is damaged but has its end marker, nvJPEG says nothing and leaves in the
pixels whatever was in its memory. Shapes: S input size.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pix2score.errors import ConfigError
from pix2score.images.preprocess import Preprocess, RGBPixels

CHUNK = 16  # pictures of at most 25 megapixels: 1.2 GB whole


class DeviceDecoder:
    """Decodes whole and resizes with an antialiased bilinear filter, on ``device``; squashes."""

    def __init__(self, preprocess: Preprocess, device: str) -> None:
        """Raises ``ConfigError`` for a resize other than squash."""
        if preprocess.resize != "squash":
            raise ConfigError(
                "decoding on a GPU squashes pictures; the model's preprocessing has resize "
                f"{preprocess.resize!r}"
            )
        self._size, self._device = preprocess.size, torch.device(device)

    def __call__(self, encoded: Sequence[bytes]) -> Iterator[RGBPixels | None]:
        """uint8 RGB [S, S, 3] of each JPEG in order, None for one that the codec refuses.

        ``images.decode.to_rgb`` says why.
        """
        for start in range(0, len(encoded), CHUNK):
            yield from self._chunk(encoded[start : start + CHUNK])

    @torch.inference_mode()
    def _chunk(self, encoded: Sequence[bytes]) -> list[RGBPixels | None]:
        try:
            whole: list[Tensor | None] = [*self._decoded(encoded)]
        except RuntimeError:  # it does not say which
            whole = [self._alone(data) for data in encoded]
        small = torch.stack(
            [self._resized(picture) for picture in whole if picture is not None] or [torch.empty(0)]
        )
        rows = iter(small.cpu().numpy())
        return [None if picture is None else next(rows) for picture in whole]

    def _decoded(self, encoded: Sequence[bytes]) -> list[Tensor]:
        """uint8 [3, H, W] each."""
        from torchvision.io import ImageReadMode, decode_jpeg

        with warnings.catch_warnings():
            # That it will move to torchcodec, and that bytes may not be written to.
            warnings.simplefilter("ignore")
            data = [torch.frombuffer(picture, dtype=torch.uint8) for picture in encoded]
            return list(decode_jpeg(data, mode=ImageReadMode.RGB, device=self._device))

    def _alone(self, data: bytes) -> Tensor | None:
        try:
            return self._decoded([data])[0]
        except RuntimeError:
            return None

    def _resized(self, picture_CHW: Tensor) -> Tensor:
        size = (self._size, self._size)
        small = F.interpolate(picture_CHW[None].float(), size, mode="bilinear", antialias=True)
        return small[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)
