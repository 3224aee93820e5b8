"""Where a head looks: Grad-CAM of its score, laid over the picture.

Shapes: N images, S input size, C channels, h and w the places of a trunk's last map.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from pix2score.ascend.ascent import Explained, gains
from pix2score.errors import DataError
from pix2score.heads.aims import aims_of
from pix2score.heads.spec import HeadSpec
from pix2score.images.encode import encode
from pix2score.model.forward_torch import network_of
from pix2score.model.networks import Network

if TYPE_CHECKING:
    from pix2score.model.predictor import Predictor


def saliency(
    predictor: Predictor, head: HeadSpec, pixels_NSSC: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """``Saliency.of`` of a network that is made for this alone."""
    return Saliency(predictor).of(head, pixels_NSSC)


class Saliency:
    """A network in torch that is asked where it looks, again and again. Not from several threads at once."""

    def __init__(self, predictor: Predictor) -> None:
        self._network = network_of(predictor.card, predictor.weights, predictor.device)
        self._model, self._device = Explained(self._network, predictor.card), predictor.device

    def check(self) -> None:
        """Raise ``DataError`` if the trunk names no map of places."""
        _last_map(self._network)

    def of(self, head: HeadSpec, pixels_NSSC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """How much each place raises what the head says: float32 [N, S, S], 1 at each image's strongest
        place.

        What it says is what ``heads.aims`` has as up: a score, a value, how probable yes or the class said
        is.

        Grad-CAM (Selvaraju et al. 2017) on the trunk's last map of places, so as coarse as that: fields of 32
        px in a ResNet. A transformer's is the input of its last block, since what comes after may be pooled
        from one token. All 0 where nothing raises the score.

        Raises ``DataError`` if the trunk has no such map.
        """
        card, network = self._model.card, self._network
        calibration = card.calibration(head.name)
        maps: list[Tensor] = []
        hook = _last_map(network).register_forward_hook(lambda _module, _inputs, output: maps.append(output))
        try:
            outputs_NA = self._model.outputs(torch.from_numpy(np.array(pixels_NSSC)).to(self._device), head)
        finally:
            hook.remove()
        said = head.answer(outputs_NA.detach().float().cpu().numpy(), calibration)
        aims = [aims_of(head).up(head, said, row) for row in range(len(outputs_NA))]
        gain_N = gains(head, outputs_NA, calibration, aims)
        # Of an ensemble the first member's map is looked at, and it may have no share in this head.
        (found,) = torch.autograd.grad(gain_N.sum(), maps[0], allow_unused=True)
        gradient = torch.zeros_like(maps[0]) if found is None else found
        map_NCHW, gradient_NCHW = (_as_places(network, part) for part in (maps[0], gradient))
        coarse_N1HW = (gradient_NCHW.mean(dim=(2, 3), keepdim=True) * map_NCHW).sum(1, keepdim=True).relu()
        size = card.preprocess.size
        fine = F.interpolate(coarse_N1HW, (size, size), mode="bilinear")[:, 0].detach().cpu().numpy()
        strongest = fine.max(axis=(1, 2), keepdims=True)
        return np.asarray(
            np.divide(fine, strongest, out=np.zeros_like(fine), where=strongest > 0), dtype=np.float32
        )


def _last_map(network: Network) -> nn.Module:
    """The module whose output still has places."""
    trunk = network.trunk
    if hasattr(trunk, "num_prefix_tokens") and hasattr(trunk, "blocks"):
        return trunk.blocks[-1].norm1  # type: ignore[no-any-return, union-attr, index]
    try:
        return trunk.get_submodule(trunk.feature_info[-1]["module"])  # type: ignore[index, arg-type]
    except (AttributeError, KeyError, IndexError, TypeError):
        raise DataError(f"{type(trunk).__name__} names no last map, so where it looks is not shown") from None


def _as_places(network: Network, found: Tensor) -> Tensor:
    """[N, C, h, w] of a module's output: NCHW, NHWC, or tokens behind those that stand for no place."""
    trunk = network.trunk
    if found.ndim == 3:
        patches_NTC = found[:, int(getattr(trunk, "num_prefix_tokens", 0)) :]
        side = math.isqrt(patches_NTC.shape[1])
        if side * side == patches_NTC.shape[1]:
            return patches_NTC.transpose(1, 2).reshape(len(found), -1, side, side)
    elif found.ndim == 4:
        channels = trunk.feature_info[-1]["num_chs"]  # type: ignore[index]
        if found.shape[1] == channels:
            return found
        if found.shape[3] == channels:
            return found.permute(0, 3, 1, 2)
    raise DataError(f"{type(trunk).__name__}'s last map {tuple(found.shape)} is not one of places")


def overlay(pixels_SSC: npt.NDArray[np.uint8], saliency_SS: npt.NDArray[np.float32]) -> bytes:
    """JPEG of the picture, dimmed where the head does not look."""
    weight = (0.25 + 0.75 * saliency_SS)[..., None]
    shown = pixels_SSC * weight + np.array([30, 34, 60]) * (1 - weight)
    return encode(Image.fromarray(shown.round().clip(0, 255).astype(np.uint8)), quality=80)
