"""Where a head looks: Grad-CAM of its score, laid over the picture.

Needs captum (``pip install 'pix2score[report]'``).

Shapes: N images, S input size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from pix2score.heads.spec import HeadSpec
from pix2score.images.encode import encode
from pix2score.model.forward_torch import network_of
from pix2score.model.network import normalise
from pix2score.serve.graph import score_of

if TYPE_CHECKING:
    from pix2score.model.predictor import Predictor


def saliency(
    predictor: Predictor, head: HeadSpec, pixels_NSSC: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """How much each place raises the head's score: float32 [N, S, S], 1 at each image's strongest place.

    Grad-CAM (Selvaraju et al. 2017) on the last convolutional stage, so as coarse as that: a field of 32 px.
    All 0 where nothing raises it.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    network = network_of(predictor.card, predictor.weights, predictor.device)
    calibration = predictor.card.calibration(head.name)

    def score(image_BCHW: Tensor) -> Tensor:
        return score_of(head, network(image_BCHW)[0][head.name], calibration)

    image_BCHW = normalise(
        torch.from_numpy(np.array(pixels_NSSC)).to(predictor.device), predictor.card.preprocess
    )
    coarse = LayerGradCam(score, network.trunk.layer4).attribute(image_BCHW, relu_attributions=True)
    size = predictor.card.preprocess.size
    fine = (
        LayerAttribution.interpolate(coarse, (size, size), interpolate_mode="bilinear")[:, 0]
        .detach()
        .cpu()
        .numpy()
    )
    strongest = fine.max(axis=(1, 2), keepdims=True)
    return np.asarray(
        np.divide(fine, strongest, out=np.zeros_like(fine), where=strongest > 0), dtype=np.float32
    )


def overlay(pixels_SSC: npt.NDArray[np.uint8], saliency_SS: npt.NDArray[np.float32]) -> bytes:
    """JPEG of the picture, dimmed where the head does not look."""
    weight = (0.25 + 0.75 * saliency_SS)[..., None]
    shown = pixels_SSC * weight + np.array([30, 34, 60]) * (1 - weight)
    return encode(Image.fromarray(shown.round().clip(0, 255).astype(np.uint8)), quality=80)
