"""Backbones that a card may name: any of timm's, with their names, inputs and what may be said of them.

Imports no torch until it is asked about a network that is not among ``CLASSIC``.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from pix2score.errors import ConfigError
from pix2score.images.preprocess import IMAGENET_MEAN, IMAGENET_STD

CLASSIC = (
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
"""ResNets that are built without a zero in their last norms, so that a seed gives the weights that it gave
when they were torchvision's; known without asking timm."""
_FORM = re.compile(r"\w+(\.\w+)?", re.ASCII)
NUM_NEAREST = 5


@dataclass(frozen=True, slots=True)
class WantedInput:
    """What a backbone was made for: ``mean`` and ``std`` of RGB in 0..1, side in px, interpolation."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    size: int = 224
    interpolation: str = "bilinear"


def check_form(backbone: str) -> None:
    """Raise ``ConfigError`` unless ``backbone`` is spelt like a name of timm's, ``resnet50`` or
    ``resnet50.a1_in1k``.

    Asks timm nothing. Prefixes by which timm would fetch a network are refused.
    """
    if not _FORM.fullmatch(backbone):
        raise ConfigError(
            f"backbone {backbone!r}: expected a name of timm's, such as {', '.join(CLASSIC[:4])}"
        )


def check_backbone(backbone: str) -> None:
    """Raise ``ConfigError`` with the nearest names unless ``backbone`` is a network of timm's."""
    check_form(backbone)
    if backbone in CLASSIC:
        return
    import timm  # imports torch: seconds

    name, _, tag = backbone.partition(".")
    if not timm.is_model(name):
        near = _nearest(name, timm.list_models())
        raise ConfigError(f"backbone {backbone!r} is not one of timm's; nearest: {', '.join(near)}")
    tagged = timm.list_models(f"{name}.*", pretrained=True)
    if tag and backbone not in tagged:
        known = ", ".join(tagged[:NUM_NEAREST]) or "none"
        raise ConfigError(f"backbone {backbone!r}: {name} has no weights of that name; known: {known}")


def _nearest(name: str, known: list[str]) -> list[str]:
    """At most ``NUM_NEAREST``; those that begin alike where none is spelt alike."""
    found = difflib.get_close_matches(name, known, n=NUM_NEAREST, cutoff=0.6)
    if found:
        return found
    family = re.split(r"[\W\d_]", name)[0]
    begins = [other for other in known if family and other.startswith(family)]
    return (begins or list(CLASSIC))[:NUM_NEAREST]


def wanted_input(backbone: str) -> WantedInput:
    """The input that ``backbone`` was made for, as timm records it; ImageNet's where it records none."""
    if backbone in CLASSIC:
        return WantedInput()
    from timm.models import get_pretrained_cfg

    found = get_pretrained_cfg(backbone)
    if found is None:
        return WantedInput()
    mean, std = ((float(v[0]), float(v[1]), float(v[2])) for v in (found.mean, found.std))
    return WantedInput(mean, std, int(found.input_size[-1]), found.interpolation)
