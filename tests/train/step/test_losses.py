"""Losses are sums over the labelled images: adding parts and dividing once gives that of the whole.

Shapes: B images, K bins of a head.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pix2score.errors import ConfigError
from pix2score.heads.ordered import OrderedHead
from pix2score.heads.spec import MISSING
from pix2score.train.step.losses import (
    ORDINAL_WIDTH,
    LossSums,
    head_losses,
    multi_head_loss,
    soft_labels,
)
from tests.support.torch_helpers import COUNT_HEAD, HEADS, LEVEL_HEAD

Logits = dict[str, Tensor]
Labels = dict[str, Tensor]


def drawn(num_images: int, seed: int, missing: float = 0.3) -> tuple[Logits, Labels]:
    generator = torch.Generator().manual_seed(seed)
    logits = {h.name: 3 * torch.randn(num_images, h.num_bins, generator=generator) for h in HEADS}
    labels = {h.name: torch.randint(0, h.num_bins, (num_images,), generator=generator) for h in HEADS}
    for label in labels.values():
        label[torch.rand(num_images, generator=generator) < missing] = MISSING
    return logits, labels


def with_grad(logits: Logits) -> Logits:
    return {name: x.clone().requires_grad_() for name, x in logits.items()}


def part_of(values: dict[str, Tensor], rows: slice | Tensor) -> dict[str, Tensor]:
    return {name: v[rows] for name, v in values.items()}


def loss_of(logits: Logits, labels: Labels) -> Tensor:
    sums = multi_head_loss(logits, labels, HEADS)
    return head_losses(sums, sums.num_labelled, HEADS).sum()


sizes, seeds, shares = st.integers(0, 12), st.integers(0, 2**31), st.floats(0, 1)


@given(sizes, seeds, shares)
@settings(max_examples=60)
def test_sums_equal_a_loop_over_images(num_images: int, seed: int, missing: float) -> None:
    logits, labels = drawn(num_images, seed, missing)
    sums = multi_head_loss(logits, labels, HEADS)
    for head in HEADS:
        total, count = 0.0, 0
        for row, label in zip(logits[head.name].tolist(), labels[head.name].tolist(), strict=True):
            if label != MISSING:
                total += math.log(sum(math.exp(x) for x in row)) - row[label]
                count += 1
        assert sums.loss_sum[head.name].item() == pytest.approx(total, rel=1e-5, abs=1e-5)
        assert sums.num_labelled[head.name].item() == count


@given(st.integers(1, 12), seeds)
@settings(max_examples=40)
def test_gradient_with_missing_labels_is_that_of_the_labelled_images_alone(
    num_images: int, seed: int
) -> None:
    logits, labels = drawn(num_images, seed, missing=0.5)
    for head in HEADS:
        whole = with_grad(logits)
        multi_head_loss(whole, labels, HEADS).loss_sum[head.name].backward()
        labelled = labels[head.name] != MISSING
        only = with_grad(part_of(logits, labelled))
        multi_head_loss(only, part_of(labels, labelled), HEADS).loss_sum[head.name].backward()
        gradient, expected = whole[head.name].grad, only[head.name].grad
        assert gradient is not None
        assert expected is not None
        torch.testing.assert_close(gradient[labelled], expected)
        assert not gradient[~labelled].any()


def test_what_an_unlabelled_image_is_predicted_changes_nothing() -> None:
    logits, labels = drawn(8, seed=1)
    other = {
        name: torch.where((labels[name] == MISSING)[:, None], x + torch.arange(x.shape[1]), x)
        for name, x in logits.items()
    }
    assert any(not torch.equal(other[name], logits[name]) for name in logits)
    assert loss_of(logits, labels).item() == pytest.approx(loss_of(other, labels).item(), rel=1e-6)


def test_a_head_without_labels_gives_zero_of_zero_and_no_gradient() -> None:
    logits, labels = drawn(6, seed=2, missing=0)
    labels["sanity"] = torch.full((6,), MISSING)
    leaves = with_grad(logits)
    sums = multi_head_loss(leaves, labels, HEADS)
    assert (sums.loss_sum["sanity"].item(), sums.num_labelled["sanity"].item()) == (0.0, 0)
    loss = head_losses(sums, sums.num_labelled, HEADS).sum()
    loss.backward()
    assert math.isfinite(loss.item())
    assert leaves["sanity"].grad is None or not leaves["sanity"].grad.any()
    assert leaves["bookmark"].grad is not None
    assert leaves["bookmark"].grad.any()


def test_a_batch_without_any_label_costs_nothing_and_stays_finite() -> None:
    logits, _ = drawn(4, seed=3)
    leaves = with_grad(logits)
    loss = loss_of(leaves, {h.name: torch.full((4,), MISSING) for h in HEADS})
    loss.backward()
    assert loss.item() == 0.0
    assert all(x.grad is None or not x.grad.any() for x in leaves.values())


@pytest.mark.parametrize(("surplus", "where"), [("view", "logits"), ("view", "labels")])
def test_mismatched_heads_are_refused_with_the_difference(surplus: str, where: str) -> None:
    logits, labels = drawn(2, seed=4)
    (logits if where == "logits" else labels)[surplus] = (
        torch.zeros(2, 3) if where == "logits" else torch.zeros(2, dtype=torch.int64)
    )
    with pytest.raises(ConfigError, match=surplus):
        multi_head_loss(logits, labels, HEADS)


@pytest.mark.parametrize("where", ["logits", "labels"])
def test_a_head_that_is_absent_is_refused_by_name(where: str) -> None:
    logits, labels = drawn(2, seed=5)
    del (logits if where == "logits" else labels)["sanity"]
    with pytest.raises(ConfigError, match="sanity"):
        multi_head_loss(logits, labels, HEADS)


@given(st.integers(0, 12), seeds, shares, st.data())
@settings(max_examples=40)
def test_parts_of_two_workers_add_up_to_the_loss_and_gradient_of_the_joint_batch(
    num_images: int, seed: int, missing: float, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, num_images))
    logits, labels = drawn(num_images, seed, missing)
    whole = with_grad(logits)
    joint = loss_of(whole, labels)
    joint.backward()

    shared = with_grad(logits)
    sums = [
        multi_head_loss(part_of(shared, rows), part_of(labels, rows), HEADS)
        for rows in (slice(None, cut), slice(cut, None))
    ]
    counts = {h.name: sums[0].num_labelled[h.name] + sums[1].num_labelled[h.name] for h in HEADS}
    parts = head_losses(sums[0], counts, HEADS).sum() + head_losses(sums[1], counts, HEADS).sum()
    parts.backward()
    torch.testing.assert_close(parts, joint, rtol=1e-5, atol=1e-6)
    for name in whole:
        torch.testing.assert_close(shared[name].grad, whole[name].grad, rtol=1e-5, atol=1e-7)


@given(st.sampled_from([COUNT_HEAD, LEVEL_HEAD]), st.floats(0, 100), st.floats(-50, 50))
@settings(max_examples=30)
def test_the_constant_answer_costs_exactly_the_weight_of_the_head(
    head: OrderedHead, weight: float, level: float
) -> None:
    weighted = replace(head, weight=weight, loss="cross_entropy")
    bias, truth = (
        weighted.initial_bias(),
        torch.arange(head.num_bins).repeat_interleave(torch.tensor(head.train_counts)),
    )
    logits = {head.name: torch.from_numpy(bias + np.float32(level)).expand(len(truth), -1)}
    sums = multi_head_loss(logits, {head.name: truth}, [weighted])
    assert head_losses(sums, sums.num_labelled, [weighted]).sum().item() == pytest.approx(weight, rel=1e-4)


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits, labels = drawn(12, seed=6)
    rounded = {name: x.bfloat16() for name, x in logits.items()}
    sums = multi_head_loss(rounded, labels, HEADS)
    exact = multi_head_loss({name: x.float() for name, x in rounded.items()}, labels, HEADS)
    assert isinstance(sums, LossSums)
    for name in sums.loss_sum:
        assert sums.loss_sum[name].dtype == torch.float32
        assert torch.equal(sums.loss_sum[name], exact.loss_sum[name])
        assert sums.num_labelled[name].dtype == torch.int64


# The losses to choose from

ALL_LOSSES = OrderedHead.LOSSES


def one_head(loss: str, counts: tuple[int, ...] = (40, 30, 20, 10)) -> OrderedHead:
    return replace(COUNT_HEAD, loss=loss, counts=counts)


def loss_value(head: OrderedHead, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    return multi_head_loss({head.name: logits_BK}, {head.name: labels_B}, [head]).loss_sum[head.name]


@pytest.mark.parametrize("loss", ALL_LOSSES)
@given(st.integers(1, 12), seeds)
@settings(max_examples=15)
def test_every_loss_gives_the_gradient_of_the_labelled_images_alone(
    loss: str, num_images: int, seed: int
) -> None:
    logits, labels = drawn(num_images, seed, missing=0.5)
    x, y, head = logits["bookmark"], labels["bookmark"], one_head(loss)
    whole, only = x.clone().requires_grad_(), x[y != MISSING].clone().requires_grad_()
    loss_value(head, whole, y).backward()
    loss_value(head, only, y[y != MISSING]).backward()
    assert whole.grad is not None
    assert only.grad is not None
    torch.testing.assert_close(whole.grad[y != MISSING], only.grad)
    assert not whole.grad[y == MISSING].any()


@pytest.mark.parametrize("loss", ["ordinal", "cross_entropy", "squared_emd"])
def test_a_uniform_guess_costs_ln_k_by_every_loss_that_treats_bins_alike(loss: str) -> None:
    cost = loss_value(one_head(loss), torch.zeros(4, 4), torch.arange(4)) / 4
    assert cost.item() == pytest.approx(math.log(4), rel=1e-5)


def test_auto_is_ordinal_for_bins_and_cross_entropy_for_levels() -> None:
    assert (one_head("auto").loss_name, replace(LEVEL_HEAD, loss="auto").loss_name) == (
        "ordinal",
        "cross_entropy",
    )
    assert one_head("squared_emd").loss_name == "squared_emd"


@pytest.mark.parametrize("num_bins", [2, 5, 15, 40])
def test_a_soft_label_of_even_bins_adds_to_one_and_has_one_peak_near_the_true_bin(num_bins: int) -> None:
    target = soft_labels((50,) * num_bins)
    torch.testing.assert_close(target.sum(1), torch.ones(num_bins))
    peak = target.argmax(1)
    assert (
        peak - torch.arange(num_bins)
    ).abs().max() <= ORDINAL_WIDTH * num_bins  # it leans outwards at the ends, to keep the shares
    assert (peak.diff() >= 0).all()
    for row, top in zip(target, peak.tolist(), strict=True):
        assert (row[: top + 1].diff() >= 0).all()
        assert (row[top:].diff() <= 0).all()


@given(st.lists(st.integers(0, 5000), min_size=2, max_size=20).filter(any))
@example([4000, 300, 200, 200, 150, 150])
@settings(max_examples=50)
def test_blurred_labels_have_the_shares_of_the_labels_however_uneven_the_bins(counts: list[int]) -> None:
    share = torch.tensor(counts, dtype=torch.float32) / sum(counts)
    torch.testing.assert_close(share @ soft_labels(tuple(counts)), share, atol=3e-3, rtol=0)


def test_a_bin_of_many_ties_keeps_its_rows() -> None:
    assert soft_labels((4000, 300, 200, 200, 150, 150))[0, 0] > 0.95


@pytest.mark.parametrize("loss", ["ordinal", "squared_emd"])
def test_an_ordinal_loss_prefers_a_near_miss_to_a_far_one_and_cross_entropy_does_not(loss: str) -> None:
    sure_of = torch.eye(4) * 5  # image i is surely in bin i
    near, far = (loss_value(one_head(loss), sure_of[[k]], torch.tensor([0])).item() for k in (1, 3))
    assert near < far
    near, far = (
        loss_value(one_head("cross_entropy"), sure_of[[k]], torch.tensor([0])).item() for k in (1, 3)
    )
    assert near == pytest.approx(far)


def fitted_logits(loss: str, counts: tuple[int, ...]) -> Tensor:
    """The constant logits that cost least on labels with these counts."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    logits = torch.zeros(len(counts), requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        optimizer.zero_grad()
        value = loss_value(one_head(loss, counts), logits.expand(len(labels), -1), labels) / len(labels)
        torch.autograd.backward(value)
        return value

    optimizer.step(cost)  # type: ignore[no-untyped-call]
    return logits.detach().softmax(0)


@pytest.mark.parametrize("loss", ["class_weighted", "logit_adjusted"])
def test_losses_for_rare_levels_end_with_classes_alike_where_plain_cross_entropy_ends_with_their_shares(
    loss: str,
) -> None:
    counts = (400, 250, 250, 100)
    torch.testing.assert_close(
        fitted_logits("cross_entropy", counts), torch.tensor(counts) / 1000, atol=2e-3, rtol=0
    )
    torch.testing.assert_close(fitted_logits(loss, counts), torch.full((4,), 0.25), atol=5e-3, rtol=0)


@pytest.mark.parametrize("loss", ["class_weighted", "logit_adjusted"])
def test_a_level_without_training_rows_keeps_the_loss_finite(loss: str) -> None:
    assert torch.isfinite(loss_value(one_head(loss, (40, 30, 20, 0)), torch.zeros(4, 4), torch.arange(4)))
