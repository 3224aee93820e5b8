"""Losses of heads with one answer: as scikit-learn and torch have them, and 1 for the constant answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from pix2score.heads.binary import BinaryHead
from pix2score.heads.spec import HeadSpec
from pix2score.heads.value import ValueHead
from pix2score.train.step.batch import Batch, noisy_targets
from pix2score.train.step.losses import head_losses, multi_head_loss
from pix2score.train.step.recipe import Recipe

LABELS = np.random.default_rng(0).exponential(size=1001) * 1e6 + 1e7
QUANTILES = tuple(np.quantile(LABELS, np.linspace(0, 1, 101)).tolist())


def binary(loss: str = "bce", weight: float | str = 1.0) -> BinaryHead:
    return BinaryHead(name="h", column="c", counts=(80, 20), loss=loss, positive_weight=weight)


def value(loss: str = "mse") -> ValueHead:
    return ValueHead(
        name="h", column="c", loss=loss, mean=LABELS.mean(), std=LABELS.std(), quantiles=QUANTILES
    )


def loss_of(head: HeadSpec, outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return float(multi_head_loss({"h": outputs}, {"h": targets}, [head]).loss_sum["h"])


def relative(head: HeadSpec, outputs: torch.Tensor, targets: torch.Tensor) -> float:
    sums = multi_head_loss({"h": outputs}, {"h": targets}, [head])
    return float(head_losses(sums, sums.num_labelled, [head])[0])


@pytest.mark.parametrize(
    "head",
    [
        *(binary(loss, weight) for loss in ("bce", "focal") for weight in (1.0, 7.0, "balanced")),
        *(value(loss) for loss in ("mse", "smooth_l1", "expected")),
    ],
    ids=lambda head: f"{head.kind} {head.loss} {getattr(head, 'positive_weight', '')}",
)
def test_a_head_starts_at_a_loss_of_one(head: HeadSpec) -> None:
    targets = torch.tensor([0] * 80 + [1] * 20) if head.kind == "binary" else torch.tensor(LABELS).float()
    outputs = torch.from_numpy(head.initial_bias()).expand(len(targets), -1)
    assert relative(head, outputs, targets) == pytest.approx(1, abs=0.03)


def test_cross_entropy_is_scikit_learns_with_its_weights() -> None:
    logit, yes = torch.randn(50, 1), torch.arange(50) % 3 == 0
    wanted = log_loss(
        yes, torch.sigmoid(logit[:, 0].double()), normalize=False, sample_weight=1 + 3.0 * yes.numpy()
    )
    assert loss_of(binary(weight=4.0), logit, yes.long()) == pytest.approx(wanted, rel=1e-5)


def test_the_focal_loss_counts_what_is_answered_well_less() -> None:
    logit = torch.tensor([[3.0], [-1.0]])
    true = torch.sigmoid(torch.tensor([3.0, 1.0]))
    wanted = -((1 - true) ** 2 * true.log() * torch.tensor([2.0, 1.0])).sum()
    assert loss_of(binary("focal", 2.0), logit, torch.tensor([1, 0])) == pytest.approx(
        float(wanted), rel=1e-5
    )


def test_errors_are_in_deviations_of_the_train_split_without_losing_digits_of_large_numbers() -> None:
    head, numbers = replace(value(), mean=1e9 + 31, std=1e3), np.float32([1e9, 1e9 + 64, 1e9 - 6400])
    exact = ((numbers.astype(float) - head.mean) / head.std) ** 2
    found = loss_of(head, torch.zeros(3, 1), torch.from_numpy(numbers))
    assert found == pytest.approx(exact.sum(), rel=1e-5)


def batch_of(target: torch.Tensor) -> Batch:
    return Batch(torch.zeros(len(target), 1, 1, 3), {"h": target}, {"h": target.double()})


def test_label_noise_is_in_the_labels_own_unit_and_new_every_time() -> None:
    head = replace(value(), name="h", label_noise=2 * LABELS.std())
    at_mean = batch_of(torch.full((4000,), float(LABELS.mean()), dtype=torch.float64))
    first, second = (noisy_targets(at_mean, head, head.own_noise()) for _ in range(2))
    assert float((first - LABELS.mean()).std()) == pytest.approx(head.label_noise, rel=0.05)
    assert not torch.equal(first, second)


def test_a_head_told_of_no_noise_has_none_though_it_asks_for_its_own() -> None:
    head = replace(value(), name="h", label_noise=2.0)
    assert Recipe().noise_of(head) == 2
    assert Recipe(label_noise=3.0).noise_of(head) == 3
    assert Recipe(label_noise=3.0, label_noise_by_head={"h": 0.0}).noise_of(head) == 0


def test_noise_leaves_missing_labels_and_those_without_neighbours_as_they_are() -> None:
    yes, number = torch.tensor([0, 1, -1, 1]), torch.tensor([0.5, float("nan"), 3.0])
    binary = BinaryHead(name="h", column="c", counts=(3, 1))
    assert noisy_targets(batch_of(yes), binary, 5.0).tolist() == yes.tolist()
    moved = noisy_targets(batch_of(number), replace(value(), name="h"), 5.0)
    assert moved.isnan().tolist() == [False, True, False]
    assert moved[0] != number[0]


def test_smooth_l1_counts_a_far_label_once() -> None:
    number = torch.tensor([float(LABELS.mean() + 5 * LABELS.std())])
    assert loss_of(value("smooth_l1"), torch.zeros(1, 1), number) == pytest.approx(4.5, rel=1e-3)


def test_the_loss_expected_is_lowest_for_a_distribution_around_the_label() -> None:
    head = value("expected")
    label = head.mean + head.std * float(head.support[1] * 0.7 + head.support[2] * 0.3)
    outputs = torch.zeros(1, head.num_outputs, requires_grad=True)
    optimizer = torch.optim.Adam([outputs], lr=0.1)
    for _ in range(500):
        optimizer.zero_grad()
        loss = multi_head_loss({"h": outputs}, {"h": torch.tensor([label])}, [head]).loss_sum["h"]
        torch.autograd.backward(loss)
        optimizer.step()
    assert head.answer(outputs.detach().numpy(), {}).value[0] == pytest.approx(label, rel=1e-3)
    assert outputs.softmax(1)[0, 1:3].tolist() == pytest.approx([0.7, 0.3], abs=0.02)


@pytest.mark.parametrize(
    "head", [binary(), binary("focal"), value(), value("smooth_l1"), value("expected")], ids=lambda h: h.loss
)
def test_a_missing_label_costs_nothing_and_sends_no_gradient(head: HeadSpec) -> None:
    outputs = torch.randn(3, head.num_outputs, requires_grad=True)
    is_binary = head.kind == "binary"
    targets = torch.tensor([1, -1, 0]) if is_binary else torch.tensor([1e7, float("nan"), 2e7])
    sums = multi_head_loss({"h": outputs}, {"h": targets}, [head])
    torch.autograd.backward(sums.loss_sum["h"])
    assert sums.num_labelled["h"] == 2
    assert outputs.grad[1].abs().sum() == 0
    assert outputs.grad[[0, 2]].abs().sum(1).min() > 0
    nothing = torch.tensor([-1]) if is_binary else torch.tensor([float("nan")])
    assert loss_of(head, torch.randn(1, head.num_outputs), nothing) == 0
