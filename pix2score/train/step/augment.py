"""Random changes of training pictures, on the device, that keep the composition.

What is popular in a drawing is its whole.

Randomness is torch's own, which the training step seeds, so that a resumed run draws the same.
Shapes: B images, S side, N blocks of 8x8 pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pix2score.train.step.recipe import Augment

_MAX_LIGHT = 255.0
_LUMINANCE = torch.tensor(  # JPEG's quantisation at quality 50, ITU-T T.81 table K.1
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=torch.float32,
)
_BLOCK = 8


def augmented(pixels_BSSC: Tensor, augment: Augment) -> Tensor:
    """RGB in 0..255, uint8 or float [B, S, S, 3], each picture changed by itself.

    float32 of the same shape and range.
    """
    image_BCHW = pixels_BSSC.permute(0, 3, 1, 2).float()
    if any((augment.flip, augment.flip_vertical, augment.shift, augment.scale, augment.rotate)):
        image_BCHW = _moved(image_BCHW, augment)
    if augment.hue:
        image_BCHW = _hue_turned(image_BCHW, augment.hue)
    if augment.colour:
        image_BCHW = _recoloured(image_BCHW, augment.colour)
    if augment.blur:
        image_BCHW = _sometimes(image_BCHW, _blurred(image_BCHW, augment.blur_sigma), augment.blur)
    if augment.jpeg:
        image_BCHW = _sometimes(
            image_BCHW, _quantised(image_BCHW, augment.jpeg_worst, augment.jpeg_best), augment.jpeg
        )
    return image_BCHW.clamp(0, _MAX_LIGHT).permute(0, 2, 3, 1)


def _uniform(like: Tensor, *shape: int) -> Tensor:
    """In -1..1, one row per image."""
    return torch.rand(len(like), *shape, device=like.device) * 2 - 1


def _sometimes(plain_BCHW: Tensor, changed_BCHW: Tensor, chance: float) -> Tensor:
    chosen = torch.rand(len(plain_BCHW), 1, 1, 1, device=plain_BCHW.device) < chance
    return torch.where(chosen, changed_BCHW, plain_BCHW)


def _moved(image_BCHW: Tensor, augment: Augment) -> Tensor:
    """Mirrored, shifted, scaled and turned in one interpolation."""
    size = torch.exp(_uniform(image_BCHW) * augment.scale)
    aspect = torch.exp(_uniform(image_BCHW) * augment.scale * 0.3)
    mirror = torch.where(_uniform(image_BCHW) < 2 * augment.flip - 1, -1.0, 1.0)
    theta = torch.zeros(len(image_BCHW), 2, 3, device=image_BCHW.device)
    theta[:, 0, 0], theta[:, 1, 1] = size * mirror, size * aspect
    theta[:, :, 2] = _uniform(image_BCHW, 2) * 2 * augment.shift  # the grid runs from -1 to 1
    if augment.flip_vertical:
        theta[:, 1, 1] *= torch.where(_uniform(image_BCHW) < 2 * augment.flip_vertical - 1, -1.0, 1.0)
    if augment.rotate:
        theta[:, :, :2] = _turns(_uniform(image_BCHW) * math.radians(augment.rotate)) @ theta[:, :, :2]
    grid = F.affine_grid(theta, list(image_BCHW.shape), align_corners=False)
    return F.grid_sample(image_BCHW, grid, padding_mode="border", align_corners=False)


def _turns(angle_B: Tensor) -> Tensor:
    """Rotation matrices, [B, 2, 2]."""
    cos, sin = angle_B.cos(), angle_B.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


def _hue_turned(image_BCHW: Tensor, most: float) -> Tensor:
    """Colours turned around the axis of greys by up to ``most`` of a circle; a grey picture stays grey."""
    angle = (_uniform(image_BCHW) * most * 2 * math.pi).view(-1, 1, 1)
    eye, mean = torch.eye(3, device=angle.device), torch.full((3, 3), 1 / 3, device=angle.device)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=angle.device) / math.sqrt(3)
    turn_B33 = angle.cos() * eye + (1 - angle.cos()) * mean + angle.sin() * cross  # Rodrigues' formula
    return torch.einsum("bij,bjhw->bihw", turn_B33, image_BCHW)


def _recoloured(image_BCHW: Tensor, strength: float) -> Tensor:
    """Contrast, brightness and saturation changed; a grey picture stays grey."""
    mean = image_BCHW.mean((1, 2, 3), keepdim=True)
    image_BCHW = (image_BCHW - mean) * (1 + strength * _uniform(image_BCHW, 1, 1, 1)) + mean
    image_BCHW = image_BCHW + 0.5 * strength * _MAX_LIGHT * _uniform(image_BCHW, 1, 1, 1)
    grey = image_BCHW.mean(1, keepdim=True)
    return (image_BCHW - grey) * (1 + 1.5 * strength * _uniform(image_BCHW, 1, 1, 1)) + grey


def _blurred(image_BCHW: Tensor, most_sigma: float) -> Tensor:
    """By a Gaussian of each picture's own width up to ``most_sigma`` px; 0: all by a 3x3 binomial filter."""
    if not most_sigma:
        line = torch.tensor([0.25, 0.5, 0.25], device=image_BCHW.device)
        kernel = torch.outer(line, line).expand(3, 1, 3, 3)
        return F.conv2d(F.pad(image_BCHW, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    sigma_B1 = torch.rand(len(image_BCHW), 1, device=image_BCHW.device) * most_sigma
    radius = math.ceil(3 * most_sigma)
    place_K = torch.arange(-radius, radius + 1, dtype=torch.float32, device=image_BCHW.device)
    line_BK = torch.softmax(-0.5 * (place_K / sigma_B1.clamp(min=1e-3)) ** 2, dim=1)
    return _filtered(_filtered(image_BCHW, line_BK[:, None]), line_BK[:, :, None])


def _filtered(image_BCHW: Tensor, kernel_BHW: Tensor) -> Tensor:
    """Each picture by its own kernel of odd sides; the border repeats itself."""
    batch, channels, height, width = image_BCHW.shape
    h, w = kernel_BHW.shape[1] // 2, kernel_BHW.shape[2] // 2
    padded = F.pad(image_BCHW, (w, w, h, h), mode="replicate").reshape(
        1, batch * channels, height + 2 * h, -1
    )
    kernel = kernel_BHW.repeat_interleave(channels, 0)[:, None]
    return F.conv2d(padded, kernel, groups=batch * channels).view(image_BCHW.shape)


def _cosines(device: torch.device) -> Tensor:
    """[8, 8]: the orthonormal DCT-II, frequency by position."""
    k = torch.arange(_BLOCK, dtype=torch.float32, device=device)
    table = torch.cos(math.pi * (2 * k[None, :] + 1) * k[:, None] / (2 * _BLOCK)) * math.sqrt(2 / _BLOCK)
    table[0] /= math.sqrt(2)
    return table


def _quantised(image_BCHW: Tensor, worst: float, best: float) -> Tensor:
    """What JPEG does to each 8x8 block of each channel; not the chroma subsampling.

    At a quality between ``worst`` and ``best``, of each picture its own. A rest below 8 px stays as it is.
    """
    batch, channels, height, width = image_BCHW.shape
    h, w = height // _BLOCK * _BLOCK, width // _BLOCK * _BLOCK
    quality = (worst + best) / 2 + (best - worst) / 2 * _uniform(image_BCHW)
    factor = torch.where(quality < 50, 50 / quality, 2 - quality / 50).view(-1, 1, 1, 1, 1, 1)
    steps = (_LUMINANCE.to(image_BCHW.device) * factor).clamp(min=1)
    blocks = (
        image_BCHW[:, :, :h, :w]
        .reshape(batch, channels, h // _BLOCK, _BLOCK, w // _BLOCK, _BLOCK)
        .transpose(3, 4)
    )
    dct = _cosines(image_BCHW.device)
    coarse = torch.round(dct @ (blocks - 128) @ dct.T / steps) * steps
    whole = image_BCHW.clone()
    whole[:, :, :h, :w] = ((dct.T @ coarse @ dct) + 128).transpose(3, 4).reshape(batch, channels, h, w)
    return whole
