"""Where a head looks, for trunks of every form: what a score comes from is bright, wherever it stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pix2score.evaluate.saliency import saliency
from pix2score.heads.binary import BinaryHead
from pix2score.images.preprocess import Preprocess
from pix2score.model.backbones import wanted_input
from pix2score.model.batchnorm import reestimate_norms
from pix2score.model.card import ModelCard
from pix2score.model.network import MultiHeadModel, normalise, weights_of
from pix2score.model.predictor import Predictor
from tests.support.torch_helpers import RGB

Corner: TypeAlias = tuple[int, int]
HEAD = BinaryHead(name="marked", column="marked", counts=(50, 50))
SIZES = {
    "resnet18": 128,
    "tf_efficientnet_lite0": 128,
    "test_vit": 128,
    "mobilenetv3_small_100": 128,
    "convnext_atto": 128,
    "vit_tiny_patch16_224": 128,
    "vit_small_patch14_dinov2": 112,
    "vit_small_patch16_dinov3": 128,
    "swin_tiny_patch4_window7_224": 224,
}
"""Backbone -> input in px."""
QUICK = ("resnet18", "test_vit")
FAMILIES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SIZES]
TRAINED = ("tf_efficientnet_lite0", "mobilenetv3_small_100")
"""Whose random weights mix all places, so that nothing of a mark is left where it stood."""
CORNERS: list[Corner] = [(0, 0), (0, 1), (1, 0), (1, 1)]
MARKED_AND_NOT = [*CORNERS, None, None, None, None]


def pictures(size: int, marks: Sequence[Corner | None], seed: int = 0) -> RGB:
    """Grey pictures, each with a chequered mark in the middle of one quarter (row, column), or with none."""
    drawn = np.random.default_rng(seed).integers(110, 113, (len(marks), size, size, 3), dtype=np.uint8)
    side, margin = size // 4, size // 8
    chequers = ((np.indices((side, side)) // 4).sum(axis=0) % 2 * 255).astype(np.uint8)
    for picture, mark in zip(drawn, marks, strict=True):
        if mark is not None:
            top, left = (size // 2 * place + margin for place in mark)
            picture[top : top + side, left : left + side] = chequers[..., None] * np.array(
                [1, 0, 0], np.uint8
            )
    return drawn


def shown(model: MultiHeadModel, preprocess: Preprocess, seed: int) -> tuple[Tensor, Tensor]:
    """Outputs [8] for pictures with and without marks, and their embeddings."""
    drawn = torch.from_numpy(pictures(preprocess.size, MARKED_AND_NOT, seed))
    outputs, embedding = model(normalise(drawn, preprocess))
    return outputs["marked"][:, 0], embedding


def train(model: MultiHeadModel, preprocess: Preprocess) -> None:
    """Some steps, after which marks are told from none."""
    adam = torch.optim.AdamW(model.parameters(), 1e-3)
    truth = torch.tensor([mark is not None for mark in MARKED_AND_NOT], dtype=torch.float32)
    for step in range(25):
        outputs, _ = shown(model.train(), preprocess, step)
        adam.zero_grad()
        F.binary_cross_entropy_with_logits(outputs, truth).backward()
        adam.step()


@torch.no_grad()
def aim_at_marks(model: MultiHeadModel, preprocess: Preprocess) -> None:
    """Let the output follow what tells marked pictures from others in the embedding."""
    _, embedding = shown(model.eval(), preprocess, 0)
    apart = embedding[:4].mean(0) - embedding[4:].mean(0)
    output = model.outputs["marked_logits"]
    assert isinstance(output, nn.Linear)
    output.weight[0] = 60 * apart / apart.square().sum()
    output.bias[0] = -(output.weight[0] @ embedding.mean(0))


def that_sees_marks(backbone: str) -> Predictor:
    """A network whose head says yes of pictures with a mark, wherever it stands, and is all but sure."""
    torch.manual_seed(0)
    size, wanted = SIZES[backbone], wanted_input(backbone)
    preprocess = Preprocess(size=size, mean=wanted.mean, std=wanted.std)
    model = MultiHeadModel(backbone, (HEAD,), size=size)
    for name, weight in model.named_parameters():
        if name.endswith(("gamma", "ls1", "ls2", "gamma_1", "gamma_2")):  # of layers that begin as nothing
            nn.init.constant_(weight, 0.5)
    if backbone in TRAINED:
        train(model, preprocess)
    reestimate_norms(model, [torch.from_numpy(pictures(size, MARKED_AND_NOT, seed=99))], preprocess)
    if backbone not in TRAINED:
        aim_at_marks(model, preprocess)
    card = ModelCard(
        backbone=backbone,
        heads=(HEAD,),
        preprocess=preprocess,
        embedding_dim=model.embedding_dim,
        temperatures={},
        weights_sha256="0" * 64,
    )
    return Predictor(card, weights_of(model.eval()), batch_size=5, engine="torch")


@pytest.mark.parametrize("backbone", FAMILIES)
def test_what_a_sure_answer_comes_from_is_bright_on_every_backbone(backbone: str) -> None:
    size, predictor = SIZES[backbone], that_sees_marks(backbone)
    images = pictures(size, CORNERS, seed=1)
    yes = predictor.predict(np.concatenate([images, pictures(size, [None])])).heads["marked"].prob
    assert yes[:4].min() > 0.99
    assert yes[4] < 0.01
    found = saliency(predictor, HEAD, images)
    assert found.shape == (4, size, size)
    assert found.dtype == np.float32
    assert found.min() >= 0
    np.testing.assert_allclose(found.max(axis=(1, 2)), 1, rtol=1e-5)
    quarters = found.reshape(4, 2, size // 2, 2, size // 2).mean(axis=(2, 4))
    brightest = [np.unravel_index(four.argmax(), four.shape) for four in quarters]
    assert brightest == CORNERS, quarters.round(2)
