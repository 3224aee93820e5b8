"""PCGrad: what two heads agree on is kept, what they fight over is projected out."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pix2score.train.step.pcgrad import conflict_free, flat, unflatten_into_gradients


def test_gradients_that_do_not_conflict_are_simply_added() -> None:
    gradients = torch.tensor([[1.0, 0.0, 2.0], [0.5, 3.0, 0.0]])
    torch.testing.assert_close(conflict_free(gradients, 0), gradients.sum(0))


def test_of_two_opposed_gradients_each_loses_its_part_along_the_other() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    expected = (a - (a @ b) / (b @ b) * b) + (b - (a @ b) / (a @ a) * a)
    torch.testing.assert_close(conflict_free(torch.stack([a, b]), 0), expected)


@given(st.integers(2, 5), st.integers(0, 2**31))
@settings(max_examples=40)
def test_it_equals_the_projections_of_the_paper_one_by_one(num_heads: int, seed: int) -> None:
    gradients = torch.randn(num_heads, 7, generator=torch.Generator().manual_seed(seed)).double()
    order = torch.Generator().manual_seed(seed)
    expected = torch.zeros(7).double()
    for i in range(num_heads):
        row = gradients[i].clone()
        for j in torch.randperm(num_heads, generator=order).tolist():
            dot = row @ gradients[j]
            if i != j and dot < 0:
                row = row - dot / (gradients[j] @ gradients[j]) * gradients[j]
        expected += row
    torch.testing.assert_close(
        conflict_free(gradients.float(), seed).double(), expected, rtol=1e-3, atol=1e-4
    )


def test_a_head_without_gradient_changes_nothing() -> None:
    gradients = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert torch.equal(conflict_free(gradients, 3), gradients[0])


def test_a_row_goes_back_to_the_parameters_it_came_from() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4))]
    row = flat([torch.arange(6.0).view(2, 3), None], parameters)
    unflatten_into_gradients(row, parameters)
    assert parameters[0].grad is not None
    assert torch.equal(parameters[0].grad, torch.arange(6.0).view(2, 3))
    assert parameters[1].grad is not None
    assert not parameters[1].grad.any()


def test_gradients_lie_in_memory_as_their_parameters_do() -> None:
    convolution = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = list(convolution.parameters())
    row = torch.arange(float(sum(p.numel() for p in parameters)))
    unflatten_into_gradients(row, parameters)
    for parameter in parameters:
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()
    assert torch.equal(flat([p.grad for p in parameters], parameters), row)
