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

import io
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pix2score.errors import ConfigError
from pix2score.images.formats.plain_jpeg import MAX_PLAIN_PIXELS
from pix2score.images.preprocess import Preprocess, RGBPixels

CHUNK, CHUNK_PIXELS = 128, 400_000_000
"""Pictures that are decoded together: nvJPEG's batches pay from a hundred on; and 1.2 GB whole."""


def chunks(encoded: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Runs of ``encoded`` that are decoded together."""
    start = total = 0
    for i, data in enumerate(encoded):
        pixels = _num_pixels(data)
        if i > start and (i - start == CHUNK or total + pixels > CHUNK_PIXELS):
            yield encoded[start:i]
            start, total = i, 0
        total += pixels
    if start < len(encoded):
        yield encoded[start:]


def _num_pixels(data: bytes) -> int:
    """By the header; the most that comes here where it does not say."""
    try:
        width, height = Image.open(io.BytesIO(data), formats=("JPEG",)).size
    except Exception:  # headers of strangers; the decoder says what is wrong
        return MAX_PLAIN_PIXELS
    return width * height


def decoder_on(device: torch.device) -> Callable[[Sequence[bytes]], list[Tensor]]:
    """Encoded JPEGs to uint8 RGB [3, H, W] each, on ``device``; raises ``RuntimeError`` if one is refused.

    By torchcodec; torchvision, whose images it took over, has a decoder in the versions before it is removed.
    Raises ``ConfigError`` where neither is there.
    """
    try:
        from torchcodec.decoders import decode_jpeg
    except (ImportError, RuntimeError):  # not there, or built for another torch
        return _by_torchvision(device)
    return lambda encoded: list(decode_jpeg([*encoded], mode="RGB", device=device))


def _by_torchvision(device: torch.device) -> Callable[[Sequence[bytes]], list[Tensor]]:
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError:
        raise ConfigError(
            "decode gpu needs torchcodec, not installed here: pip install 'pix2score[gpu]', or --decode cpu"
        ) from None

    def decoded(encoded: Sequence[bytes]) -> list[Tensor]:
        with warnings.catch_warnings():
            # That it moved to torchcodec, and that bytes may not be written to.
            warnings.simplefilter("ignore")
            data = [torch.frombuffer(picture, dtype=torch.uint8) for picture in encoded]
            return list(decode_jpeg(data, mode=ImageReadMode.RGB, device=device))

    return decoded


class DeviceDecoder:
    """Decodes whole and resizes with an antialiased bilinear filter, on ``device``; squashes."""

    def __init__(self, preprocess: Preprocess, device: str) -> None:
        """Raises ``ConfigError`` for a resize other than squash, and where no package decodes."""
        if preprocess.resize != "squash":
            raise ConfigError(
                "decoding on a GPU squashes pictures; the model's preprocessing has resize "
                f"{preprocess.resize!r}"
            )
        self._size = preprocess.size
        self._decode = decoder_on(torch.device(device))

    def __call__(self, encoded: Sequence[bytes]) -> Iterator[RGBPixels | None]:
        """uint8 RGB [S, S, 3] of each JPEG in order, None for one that the codec refuses.

        ``images.decode.to_rgb`` says why.
        """
        for chunk in chunks(encoded):
            yield from self._chunk(chunk)

    @torch.inference_mode()
    def _chunk(self, encoded: Sequence[bytes]) -> list[RGBPixels | None]:
        try:
            whole: list[Tensor | None] = [*self._decode(encoded)]
        except RuntimeError:  # it does not say which
            whole = [self._alone(data) for data in encoded]
        small = torch.stack(
            [self._resized(picture) for picture in whole if picture is not None] or [torch.empty(0)]
        )
        rows = iter(small.cpu().numpy())
        return [None if picture is None else next(rows) for picture in whole]

    def _alone(self, data: bytes) -> Tensor | None:
        try:
            return self._decode([data])[0]
        except RuntimeError:
            return None

    def _resized(self, picture_CHW: Tensor) -> Tensor:
        size = (self._size, self._size)
        small = F.interpolate(picture_CHW[None].float(), size, mode="bilinear", antialias=True)
        return small[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)
