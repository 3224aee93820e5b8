"""Small maps multiplied out are the same convolution, forwards and backwards."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

from pix2score.model.small_maps import MOST_PIXELS, SmallMapConv2d, multiply_small_maps


def both(conv: nn.Conv2d) -> tuple[nn.Module, nn.Module]:
    plain = nn.Sequential(copy.deepcopy(conv))
    replaced = copy.deepcopy(plain)
    multiply_small_maps(replaced)
    return plain, replaced


@pytest.mark.parametrize(
    ("conv", "size"),
    [
        (nn.Conv2d(3, 5, 3, padding=1), (2, 2)),
        (nn.Conv2d(3, 5, 3, padding=1, stride=2, bias=False), (7, 5)),
        (nn.Conv2d(3, 5, (2, 3), padding=(1, 0), stride=(2, 1)), (5, 6)),
        (nn.Conv2d(3, 5, 4), (4, 4)),
    ],
    ids=str,
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_answers_and_gradients_are_those_of_the_convolution(
    conv: nn.Conv2d, size: tuple[int, int], memory_format: torch.memory_format
) -> None:
    plain, replaced = both(conv)
    assert isinstance(replaced[0], SmallMapConv2d)  # type: ignore[index]
    images = torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(0))
    found = []
    for network in (plain, replaced):
        pixels = images.clone(memory_format=memory_format).requires_grad_()
        answer = network(pixels)
        assert answer.shape[2] * answer.shape[3] <= MOST_PIXELS
        answer.square().sum().backward()
        found.append([answer, pixels.grad, *(p.grad for p in network.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    ],
    ids=str,
)
def test_other_convolutions_are_left_alone(conv: nn.Conv2d) -> None:
    assert type(both(conv)[1][0]) is nn.Conv2d  # type: ignore[index]


def test_a_large_map_a_map_of_nothing_and_an_answer_without_gradients_are_torchs_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, replaced = both(nn.Conv2d(3, 5, 3, padding=1))
    monkeypatch.setattr("torch.nn.functional.unfold", None)
    large, small = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 2, 2)
    assert torch.equal(replaced(large), plain(large))
    with torch.no_grad():
        assert torch.equal(replaced(small), plain(small))
    with pytest.raises(TypeError):
        replaced(small)
    with pytest.raises(RuntimeError, match="(?i)kernel"):
        both(nn.Conv2d(3, 5, 3))[1](small)


def test_a_network_keeps_its_names_and_learns_the_same() -> None:
    plain = timm.create_model("resnet18", num_classes=3)
    replaced = copy.deepcopy(plain)
    multiply_small_maps(replaced)
    assert plain.state_dict().keys() == replaced.state_dict().keys()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for network in (plain, replaced):
        network(images).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), replaced.parameters(), strict=True):
        torch.testing.assert_close(
            a.grad, b.grad, rtol=1e-3, atol=1e-5 + 1e-4 * float(a.grad.abs().max()), msg=name
        )
