"""A batch that does not fit in memory is computed in pieces, at last with activations computed twice."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from pix2score.errors import ConfigError
from pix2score.model.network import MultiHeadModel
from pix2score.train.step.fitter import Fitter
from pix2score.train.step.pieces import Division
from tests.support.torch_helpers import (
    HEADS,
    NARROW,
    FrozenNormModel,
    assert_same_state,
    batch,
    fitter_of,
    on_two_workers,
    part,
    seeded,
    settled_model,
    state_of,
)

IMAGES = 16
RANDOM: dict[str, Any] = {"dropout": 0.3, "label_noise": 1.0}
UNCLIPPED: dict[str, Any] = {"learning_rate": 1e-4, "clip_norm": 1e9}


class Small(MultiHeadModel):
    """A device that holds ``budget`` bytes of activations: what autograd saves in a forward pass."""

    budget = math.inf
    most = 0

    def forward(self, image_BCHW: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        held: dict[int, int] = {}

        def kept(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, torch.nn.Parameter):
                held[tensor.data_ptr()] = tensor.nbytes
            if sum(held.values()) > self.budget:
                raise torch.OutOfMemoryError(
                    "Tried to allocate 2.00 MiB. GPU 0 has a total capacity of 1 GiB"
                )
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
            found = super().forward(image_BCHW)
        self.most = max(self.most, sum(held.values()))
        return found


class SmallFrozenNorm(Small, FrozenNormModel):
    """The same, without what makes pieces differ from the whole."""


def frozen(budget: float = math.inf) -> SmallFrozenNorm:
    model = SmallFrozenNorm(NARROW, HEADS)
    model.load_state_dict(settled_model().state_dict())
    model.budget = budget
    return model


@functools.cache
def need_of(num_images: int) -> int:
    """Bytes of activations."""
    model = frozen()
    fitter_of(model).train_step(batch(num_images))
    return model.most


def gradient_of(fitter: Fitter) -> Tensor:
    return torch.cat([p.grad.flatten() for p in fitter.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("gradient", ["sum", "pcgrad"])
def test_a_batch_that_does_not_fit_takes_the_same_step_in_pieces(gradient: str) -> None:
    tight = fitter_of(frozen(1.1 * need_of(4)), **UNCLIPPED, gradient=gradient)
    roomy = fitter_of(frozen(), **UNCLIPPED, gradient=gradient)
    images = batch(IMAGES, 2, missing=0.3)
    assert tight.train_step(images).loss == pytest.approx(roomy.train_step(images).loss, rel=1e-5)
    assert tight.pieces.now == Division(4, recomputes=False)
    assert roomy.pieces.now == Division(1, recomputes=False)
    assert (gradient_of(tight) - gradient_of(roomy)).norm() < 1e-4 * gradient_of(roomy).norm()


def test_what_was_tried_in_vain_leaves_no_trace_in_statistics_and_random_numbers() -> None:
    tight, asked = (fitter_of(seeded(Small), **RANDOM, accumulate=n) for n in (1, 2))
    assert isinstance(tight.model, Small)
    tight.model.budget = 1.1 * need_of(IMAGES // 2)
    for seed in range(2):
        images = batch(IMAGES, seed)
        assert tight.train_step(images).loss == asked.train_step(images).loss
    assert tight.pieces.now == Division(2, recomputes=False)
    assert_same_state(state_of(tight.model), state_of(asked.model))


@pytest.mark.slow
def test_activations_are_computed_twice_where_eight_pieces_do_not_fit() -> None:
    fitter = fitter_of(frozen(0.9 * need_of(IMAGES // 8)), **UNCLIPPED)
    roomy = fitter_of(frozen(), **UNCLIPPED)
    images = batch(IMAGES, 2, missing=0.3)
    assert fitter.train_step(images).loss == pytest.approx(roomy.train_step(images).loss, rel=1e-5)
    assert fitter.pieces.now.recomputes
    assert (gradient_of(fitter) - gradient_of(roomy)).norm() < 1e-4 * gradient_of(roomy).norm()


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["sum", "pcgrad"])
def test_recomputing_saves_memory_and_changes_neither_weights_nor_statistics(gradient: str) -> None:
    plain, frugal = (
        fitter_of(network, **RANDOM, gradient=gradient, average=0.1, checkpoint_activations=again)
        for network, again in ((seeded(Small, backbone="resnet18"), again) for again in (False, True))
    )
    for seed in range(2):
        plain.train_step(batch(8, seed))
        frugal.train_step(batch(8, seed))
    assert isinstance(plain.model, Small)
    assert isinstance(frugal.model, Small)
    assert frugal.model.most < 0.6 * plain.model.most
    expected = state_of(plain.model)
    for name, found in state_of(frugal.model).items():
        torch.testing.assert_close(found, expected[name], rtol=1e-4, atol=1e-5)


def test_if_not_even_one_image_fits_the_line_says_what_was_asked_for_and_what_to_do() -> None:
    fitter = fitter_of(frozen(1000))
    with pytest.raises(ConfigError) as caught:
        fitter.train_step(batch(4))
    assert "one image at a time does not fit in memory (Tried to allocate 2.00 MiB)" in str(caught.value)
    assert "smaller input_size" in str(caught.value)


def test_another_error_of_the_network_is_no_want_of_memory() -> None:
    model = frozen()
    model.trunk.conv1.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("wrong shape")))
    with pytest.raises(RuntimeError, match="wrong shape"):
        fitter_of(model).train_step(batch(4))


def test_validation_takes_no_more_at_once_than_training_could() -> None:
    fitter, seen = fitter_of(frozen(1.1 * need_of(4))), []
    fitter.train_step(batch(IMAGES))
    fitter.model.trunk.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    (found, _) = fitter.validate([batch(IMAGES, 1)])
    assert seen == [4, 4, 4, 4]
    assert found.num_labelled == IMAGES


def one_is_short(rank: int) -> dict[str, Any]:
    budget = 1.1 * need_of(2)  # on both: a step is a step of all workers
    model = frozen(budget if rank == 0 else math.inf)
    fitter = fitter_of(DistributedDataParallel(model), **UNCLIPPED)
    mine = slice(rank * 4, (rank + 1) * 4)
    losses = [fitter.train_step(part(batch(8, 0, missing=0.2), mine)).loss]
    gradient = gradient_of(fitter)  # of the first step: Adam makes of its rounding other weights
    losses += [fitter.train_step(part(batch(8, seed, missing=0.2), mine)).loss for seed in (1, 2)]
    return {"now": fitter.pieces.now, "losses": losses, "gradient": gradient}


@pytest.mark.slow
def test_workers_agree_on_pieces_though_only_one_is_short_and_step_as_one_with_both_batches(
    tmp_path: Path,
) -> None:
    alone = fitter_of(frozen(), **UNCLIPPED)
    losses = [alone.train_step(batch(8, 0, missing=0.2)).loss]
    gradient = gradient_of(alone)
    losses += [alone.train_step(batch(8, seed, missing=0.2)).loss for seed in (1, 2)]
    first, second = on_two_workers(one_is_short, tmp_path / "workers")
    assert first["now"] == second["now"] == Division(2, recomputes=False)
    assert first["losses"] == second["losses"] == pytest.approx(losses, rel=1e-3)
    assert torch.equal(first["gradient"], second["gradient"])
    assert (first["gradient"] - gradient).norm() < 1e-3 * gradient.norm()
