"""Adversarial steps: pictures move where the loss grows, and BatchNorm does not see them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pix2score.errors import ConfigError
from pix2score.model.network import normalise
from pix2score.train.config import TrainConfig
from pix2score.train.step.adversarial import moved_against
from pix2score.train.step.losses import multi_head_loss
from pix2score.train.step.recipe import Recipe
from tests.support.torch_helpers import HEADS, PREPROCESS, batch, fitter_of, frozen_copy, settled_model


def loss_of(model: torch.nn.Module, image_BCHW: Tensor) -> Tensor:
    outputs, _ = model(image_BCHW)
    sums = multi_head_loss(outputs, batch(6, 3).targets, HEADS)
    return torch.stack(list(sums.loss_sum.values())).sum()


def test_each_picture_moves_by_its_length_and_the_loss_grows() -> None:
    model = frozen_copy()
    image = normalise(batch(6, 3).pixels_BSSC, PREPROCESS).requires_grad_()
    before = loss_of(model, image)
    before.backward()
    moved = moved_against(image, 0.25)
    assert not moved.requires_grad
    assert (moved - image).flatten(1).norm(dim=1).tolist() == pytest.approx([0.25] * 6, rel=1e-4)
    with torch.no_grad():
        assert loss_of(model, moved) > before
        against = 2 * image - moved
        assert loss_of(model, against) < before


def test_a_picture_without_a_gradient_stays() -> None:
    image = torch.ones(2, 3, 4, 4, requires_grad=True)
    (image[0] * 2).sum().backward()
    moved = moved_against(image, 0.5)
    assert torch.equal(moved[1], image[1])
    assert not torch.equal(moved[0], image[0])


def test_a_step_learns_from_both_and_batchnorm_from_the_pictures_alone() -> None:
    found = {}
    for length in (0.0, 0.5):
        fitter = fitter_of(settled_model(), adversarial=length, clip_norm=1e9, learning_rate=1e-9)
        result = fitter.train_step(batch(8, 2))
        gradient = torch.cat([p.grad.flatten() for p in fitter.model.parameters() if p.grad is not None])
        found[length] = (result.loss, gradient, [b.clone() for b in fitter.model.buffers()])
    (loss, plain, seen), (same, both, kept) = found[0.0], found[0.5]
    assert same == loss
    assert all(torch.equal(a, b) for a, b in zip(seen, kept, strict=True))
    assert 1.2 < float(both.norm() / plain.norm()) < 5
    assert torch.cosine_similarity(both, plain, dim=0) > 0.5


def test_what_it_does_not_go_with_is_refused() -> None:
    with pytest.raises(ConfigError, match="not together with gradient pcgrad"):
        Recipe(adversarial=0.5, gradient="pcgrad")
    with pytest.raises(ConfigError, match=r"adversarial moves pictures, and these are embedded once"):
        TrainConfig(data="d", out="o", weights="imagenet", freeze="trunk", hidden=8, adversarial=0.5)
    with pytest.raises(ConfigError, match="adversarial -1"):
        Recipe(adversarial=-1.0)
