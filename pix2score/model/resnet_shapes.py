"""Names and shapes of the weights of torchvision's ResNets, without torch.

A model must hold those of its card.
"""

from __future__ import annotations

from collections.abc import Iterator

from pix2score.model.backbones import RESNETS, STAGES, ResNet
from pix2score.model.folder import ModelCard, Shape, Weights, check_shapes


def check_weights(card: ModelCard, weights: Weights) -> None:
    """Raise ``DataError`` listing weights that do not fit the card's network."""
    found = {name: tuple(array.shape) for name, array in weights.items()}
    check_shapes(found, weight_shapes(card), f"model {card.version}")


def weight_shapes(card: ModelCard) -> dict[str, Shape]:
    """Weight name -> shape of the whole network: trunk and heads."""
    found = {f"trunk.{name}": shape for name, shape in _trunk(RESNETS[card.backbone])}
    for head in card.heads:
        layer = f"outputs.{head.name}_logits"
        found |= {
            f"{layer}.weight": (head.num_outputs, card.embedding_dim),
            f"{layer}.bias": (head.num_outputs,),
        }
    return found


def _trunk(net: ResNet) -> Iterator[tuple[str, Shape]]:
    yield from _convolution("conv1", "bn1", (64, 3, 7, 7))
    channels = 64
    for stage, (planes, blocks) in enumerate(zip(STAGES, net.blocks, strict=True), start=1):
        for block in range(blocks):
            yield from _block(
                f"layer{stage}.{block}", net, channels, planes, strides=stage > 1 and block == 0
            )
            channels = planes * net.expansion


def _block(
    name: str, net: ResNet, channels: int, planes: int, *, strides: bool
) -> Iterator[tuple[str, Shape]]:
    out = planes * net.expansion
    if net.width_per_group:
        width = planes * net.width_per_group // 64 * net.groups
        kernels: list[Shape] = [
            (width, channels, 1, 1),
            (width, width // net.groups, 3, 3),
            (out, width, 1, 1),
        ]
    else:
        kernels = [(planes, channels, 3, 3), (planes, planes, 3, 3)]
    for i, kernel in enumerate(kernels, start=1):
        yield from _convolution(f"{name}.conv{i}", f"{name}.bn{i}", kernel)
    if strides or channels != out:
        yield from _convolution(f"{name}.downsample.0", f"{name}.downsample.1", (out, channels, 1, 1))


def _convolution(name: str, norm: str, kernel: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", kernel
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{norm}.{part}", kernel[:1]
    yield f"{norm}.num_batches_tracked", ()
