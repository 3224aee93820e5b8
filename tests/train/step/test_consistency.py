"""R-Drop: how far apart two answers are, by what a head's outputs mean."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pix2score.errors import ConfigError
from pix2score.heads.binary import BinaryHead
from pix2score.model.network import MultiHeadModel
from pix2score.train.config import TrainConfig
from pix2score.train.recipes import make_recipe, unused_where_outputs_are_solved
from pix2score.train.step.consistency import DISAGREEMENTS, disagreements
from pix2score.train.step.losses import LOSSES
from pix2score.train.step.recipe import Recipe
from tests.support.torch_helpers import batch, fitter_of, seeded

BINARY = BinaryHead(name="liked", column="liked", counts=(50, 150))


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_loss_has_one() -> None:
    assert DISAGREEMENTS.keys() == LOSSES.keys()


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_it_is_nothing_between_equal_answers_symmetric_and_positive_else(loss: str) -> None:
    a, b = drawn(1, 6, 4), drawn(2, 6, 4)
    apart = DISAGREEMENTS[loss]
    assert apart(a, a).abs().max() == 0
    assert apart(a, b).shape == (6,)
    torch.testing.assert_close(apart(a, b), apart(b, a))
    assert (apart(a, b) > 0).all()


def test_a_loss_of_order_of_one_number_has_one_too() -> None:
    a, b = drawn(1, 6, 1), drawn(2, 6, 1)
    torch.testing.assert_close(DISAGREEMENTS["pairwise"](a, b), (a - b).square()[:, 0])


def test_of_shares_and_chances_it_is_the_mean_of_both_divergences_by_torchs_own() -> None:
    a, b = drawn(3, 5, 4), drawn(4, 5, 4)
    p, q = (torch.distributions.Categorical(logits=x) for x in (a, b))
    both = (torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)) / 2
    torch.testing.assert_close(DISAGREEMENTS["ordinal"](a, b), both)
    p, q = (torch.distributions.Bernoulli(logits=x) for x in (a, b))
    both = (torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)) / 2
    torch.testing.assert_close(DISAGREEMENTS["binary_focal"](a, b), both.sum(1))


def test_parts_of_workers_add_up_and_rows_without_a_label_do_not_count() -> None:
    head = replace(BINARY, weight=2.0)
    first, second, truth = drawn(5, 8, 1), drawn(6, 8, 1), torch.tensor([0, 1, 1, -1, 0, -1, 1, 0])
    count = {"liked": torch.tensor(6)}

    def part(rows: slice) -> Tensor:
        answers = ({"liked": first[rows]}, {"liked": second[rows]})
        return disagreements(*answers, {"liked": truth[rows]}, count, [head])

    labelled = truth >= 0
    expected = DISAGREEMENTS["binary_cross_entropy"](first.float(), second.float())[labelled].mean()
    torch.testing.assert_close(part(slice(None))[0], expected * 2.0 / head.null_cost)
    torch.testing.assert_close(part(slice(0, 3)) + part(slice(3, 8)), part(slice(None)))


def dropped(r_drop: float) -> tuple[float, Tensor]:
    fitter = fitter_of(seeded(MultiHeadModel), dropout=0.5, r_drop=r_drop, clip_norm=1e9)
    result = fitter.train_step(batch(8))
    gradient = fitter.model.outputs["bookmark_logits"].weight.grad
    assert gradient is not None
    return result.loss, gradient


def test_a_step_learns_from_both_masks_and_from_their_disagreement() -> None:
    plain, (nearly_none, _), (strong, gradient) = dropped(0.0), dropped(1e-9), dropped(5.0)
    assert nearly_none != plain[0]  # the mean of two masks
    assert strong > nearly_none
    assert not torch.equal(gradient, plain[1])


def test_without_dropout_it_is_refused_and_where_outputs_are_solved_it_has_no_effect() -> None:
    with pytest.raises(ConfigError, match=r"r_drop compares two dropout masks.*give dropout"):
        Recipe(r_drop=1.0)
    settings: dict[str, Any] = {"data": "d", "out": "o", "r_drop": 1.0, "weights": "imagenet"}
    config = TrainConfig(**settings, freeze="trunk")
    assert unused_where_outputs_are_solved(config) == ["r_drop"]
    with pytest.raises(ConfigError, match="dropout is 0"):
        make_recipe(TrainConfig(**settings), num_rows=1000, images_per_step=64, total_steps=10)
    with pytest.raises(ConfigError, match="r_drop -1"):
        Recipe(r_drop=-1.0, dropout=0.1)
