"""Backbones that a card may name, and their shape."""

from __future__ import annotations

from dataclasses import dataclass

from pix2score.errors import ConfigError

STAGES = (64, 128, 256, 512)
"""Channels of the four stages, before a bottleneck widens them fourfold."""
BACKBONES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
"""torchvision's ResNets: what a card may name."""


@dataclass(frozen=True, slots=True)
class ResNet:
    """Blocks of each stage.

    ``width_per_group`` is 0 for basic blocks of two convolutions, else they are bottlenecks of three.
    """

    blocks: tuple[int, int, int, int]
    width_per_group: int = 64
    groups: int = 1

    @property
    def expansion(self) -> int:
        """Output channels of a block over its stage's."""
        return 4 if self.width_per_group else 1

    @property
    def embedding_dim(self) -> int:
        """Channels of the last stage."""
        return STAGES[-1] * self.expansion


RESNETS = {
    "resnet18": ResNet((2, 2, 2, 2), 0),
    "resnet34": ResNet((3, 4, 6, 3), 0),
    "resnet50": ResNet((3, 4, 6, 3)),
    "resnet101": ResNet((3, 4, 23, 3)),
    "resnet152": ResNet((3, 8, 36, 3)),
    "resnext50_32x4d": ResNet((3, 4, 6, 3), 4, 32),
    "resnext101_32x8d": ResNet((3, 4, 23, 3), 8, 32),
    "resnext101_64x4d": ResNet((3, 4, 23, 3), 4, 64),
    "wide_resnet50_2": ResNet((3, 4, 6, 3), 128),
    "wide_resnet101_2": ResNet((3, 4, 23, 3), 128),
}
"""https://pytorch.org/vision/stable/models/resnet.html; compared with torchvision's own in the tests."""


def check_backbone(backbone: str) -> None:
    """Raise ``ConfigError`` unless ``backbone`` is one of ``BACKBONES``."""
    if backbone not in BACKBONES:
        raise ConfigError(f"backbone {backbone!r} is not known; one of {', '.join(BACKBONES)}")
