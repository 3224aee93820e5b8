"""Weights that a trunk starts from."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torchvision
from torch import Tensor

from pix2score.errors import ConfigError, DataError
from pix2score.model.backbones import check_backbone
from pix2score.model.folder import load_model
from pix2score.model.network import MultiHeadModel, load_exactly
from pix2score.storage.folder import Folder


def initial_trunk(weights: str, backbone: str) -> dict[str, Tensor] | None:
    """Weights to start the trunk from.

    None for ``none``, ImageNet's from torchvision's hub, or those at a place. A place is a model directory of
    ours, or a ``.safetensors``, ``.pth`` or ``.pt`` state dict of the torchvision backbone. Pickles are read
    with ``weights_only``. An ``fc`` layer in them is left out.

    Raises:
        ConfigError: the hub cannot be reached.
        DataError: the place holds no weights, or those of another network.
    """
    check_backbone(backbone)
    if weights == "none":
        return None
    tensors = _imagenet(backbone) if weights == "imagenet" else _read_trunk(weights)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
    trunk = MultiHeadModel(backbone, ()).trunk
    # Files of torchvision's first years have no BatchNorm counters; torch itself starts them at 0.
    counters = {
        name: tensor for name, tensor in trunk.state_dict().items() if name.endswith(".num_batches_tracked")
    }
    tensors = {**counters, **tensors}
    load_exactly(trunk, tensors, weights)
    return tensors


def _imagenet(backbone: str) -> dict[str, Tensor]:
    hub = torchvision.models.get_model_weights(backbone).DEFAULT  # type: ignore[attr-defined]
    try:
        return cast(dict[str, Tensor], hub.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except OSError as exc:  # urllib's errors are OSErrors
        raise ConfigError(
            f"--weights imagenet: {hub.url} cannot be reached ({exc}); use --weights none, or fetch that "
            "file and pass its place"
        ) from None


def _read_trunk(place: str) -> dict[str, Tensor]:
    whole = Folder(place)
    if whole.is_file("model.json"):
        _, arrays = load_model(place)
        trunk = {
            name.removeprefix("trunk."): array for name, array in arrays.items() if name.startswith("trunk.")
        }
        return {name: torch.from_numpy(np.array(array)) for name, array in trunk.items()}
    try:
        data = whole.parent.read(whole.name)
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(
            f"--weights {place}: expected none, imagenet, a model directory, or a .safetensors or .pth file"
        ) from None
    return _parse_state_dict(data, place)


def _parse_state_dict(data: bytes, place: str) -> dict[str, Tensor]:
    import io

    from safetensors.torch import load as load_tensors

    try:
        if place.endswith(".safetensors"):
            return dict(load_tensors(data))
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as exc:  # torch.load and safetensors raise many kinds on foreign bytes
        first_line = str(exc).partition("\n")[0]  # an EOFError has no text
        raise DataError(
            f"--weights {place} cannot be read as weights: {type(exc).__name__}: {first_line}"
        ) from None
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise DataError(f"--weights {place} is not a state dict: expected names and tensors")
    return loaded
