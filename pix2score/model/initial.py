"""Weights that a trunk starts from: timm's hub, or a file; as many as fit."""

from __future__ import annotations

import logging
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from pix2score.errors import ConfigError, DataError
from pix2score.model.backbones import check_backbone
from pix2score.model.card import CARD
from pix2score.model.folder import NUM_LISTED, load_model
from pix2score.model.members import refuse_ensemble
from pix2score.model.trunk import build_trunk
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)
Tensors = dict[str, Tensor]
HUB = ("pretrained", "imagenet")
HUB_FILE = "model.safetensors"
REACH_TIMEOUT_S = 10
LEAST_SHARE = 0.5
"""Of a trunk's values that a file must bring: below it, the file is another network's, which has a few layers
of the same name and shape."""
_COUNTER = ".num_batches_tracked"


def initial_trunk(weights: str, backbone: str, size: int | None = None) -> Tensors | None:
    """Weights to start the trunk from: those that fit it by name and shape; the log says which do not.

    None for ``none``; timm's own for ``pretrained``; or those at a place: a model directory of ours, a
    ``.safetensors``, ``.pth`` or ``.pt`` state dict. What timm knows to convert is converted: position
    embeddings are resampled to ``size`` px, original releases renamed. A file none of whose names fit, but
    whose shapes are the trunk's one by one, is taken in order. Pickles are read with ``weights_only``.

    Raises:
        ConfigError: the hub cannot be reached, or has no weights of this backbone.
        DataError: the place holds no weights, or those of another network.
    """
    check_backbone(backbone)
    if weights == "none":
        return None
    if weights in HUB:
        return _from_hub(weights, backbone, size)
    trunk = build_trunk(backbone, size)
    found = _converted(_read(weights), trunk, weights)
    fit = _matched(found, trunk.state_dict())
    _check(fit, weights, backbone)
    return fit.tensors


@dataclass(frozen=True, slots=True)
class _Fit:
    """How a file's weights meet a trunk's."""

    tensors: Tensors
    new: list[str]
    """Names of the trunk that the file does not fill."""
    left_out: list[str]
    """What is in the file besides."""
    misfits: list[str]
    """In both, but of another shape: with both shapes."""
    share: float
    """Of the trunk's values that the file fills."""
    in_order: bool = False


def _matched(found: Tensors, wanted: Mapping[str, Tensor]) -> _Fit:
    if not found.keys() & wanted.keys() and (renamed := _in_order(found, wanted)):
        fit = _by_name(renamed, wanted)
        return _Fit(fit.tensors, fit.new, list(found)[len(renamed) :], [], fit.share, in_order=True)
    return _by_name(found, wanted)


def _by_name(found: Tensors, wanted: Mapping[str, Tensor]) -> _Fit:
    fitting = {n: t for n, t in found.items() if n in wanted and t.shape == wanted[n].shape}
    misfits = [
        f"{n} is {tuple(found[n].shape)}, expected {tuple(t.shape)}"
        for n, t in wanted.items()
        if n in found and n not in fitting
    ]
    # Files of torchvision's first years have no BatchNorm counters; torch itself starts them at 0.
    counters = {n: torch.zeros_like(t) for n, t in wanted.items() if n.endswith(_COUNTER)}
    new = [n for n in wanted if n not in fitting and n not in counters]
    filled = sum(t.numel() for t in fitting.values())
    share = filled / max(1, sum(t.numel() for t in wanted.values()))
    left_out = [n for n in found if n not in wanted]
    return _Fit({**counters, **fitting}, new, left_out, misfits, share)


def _in_order(found: Tensors, wanted: Mapping[str, Tensor]) -> Tensors:
    """``found`` under the names of ``wanted``, if their shapes are the same one by one; else nothing.

    ``found`` may go on with an output layer.
    """
    tensors = list(found.values())
    weights = [name for name in wanted if not name.endswith(_COUNTER)]
    for names in (list(wanted), weights):  # older files have no counters
        if [t.shape for t in tensors[: len(names)]] == [wanted[name].shape for name in names]:
            return dict(zip(names, tensors, strict=False))
    return {}


def _check(fit: _Fit, weights: str, backbone: str) -> None:
    """Say what was loaded. Raises ``DataError`` if that is next to nothing."""
    if fit.share < LEAST_SHARE:
        raise DataError(
            f"--weights {weights} fit {100 * fit.share:.0f} % of {backbone}: {backbone} has "
            f"{_listed([*fit.misfits, *fit.new])}; the file has {_listed(fit.left_out)} besides. Take the "
            "weights of this backbone, or the backbone of these weights"
        )
    if fit.in_order:
        logger.warning("%s: no name fits %s, but all shapes do one by one: taken in order", weights, backbone)
    level = logging.WARNING if fit.new else logging.INFO
    logger.log(
        level,
        "%s: %.1f %% of %s loaded; new: %s; of another shape: %s; left out: %s",
        weights,
        100 * fit.share,
        backbone,
        _listed(fit.new),
        _listed(fit.misfits),
        _listed(fit.left_out),
    )


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - NUM_LISTED
    return (", ".join(names[:NUM_LISTED]) or "nothing") + (f" and {rest} more" if rest > 0 else "")


def _converted(tensors: Tensors, trunk: nn.Module, weights: str) -> Tensors:
    """As timm would read the file: original names to timm's, position embeddings to the trunk's size."""
    convert = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        converted: Tensors = convert(dict(tensors), trunk)
    except (KeyError, RuntimeError, AssertionError, ValueError, IndexError, AttributeError) as exc:
        # It takes for granted that the file is of this network.
        logger.warning(
            "%s: timm's conversion refused it (%s); taken as it is", weights, f"{type(exc).__name__}: {exc}"
        )
        return tensors
    return converted


def _from_hub(weights: str, backbone: str, size: int | None) -> Tensors:
    cfg = timm.models.get_pretrained_cfg(backbone)
    if cfg is None or not cfg.has_weights:
        raise ConfigError(f"--weights {weights}: timm has no weights of {backbone}; use --weights none")
    asked: dict[str, Any] = {"img_size": size} if size and cfg.fixed_input_size else {}
    try:
        _reach(cfg)
        trunk = timm.create_model(backbone, pretrained=True, num_classes=0, **asked)
    except (OSError, RuntimeError, ValueError) as exc:  # the hub's own are OSErrors, its client's are not
        first_line = str(exc).partition("\n")[0]
        raise ConfigError(
            f"--weights {weights}: {_url(cfg)} cannot be reached ({type(exc).__name__}: {first_line}); use "
            "--weights none, or fetch that file and pass its place"
        ) from None
    logger.info("%s: all weights of %s loaded from %s", weights, backbone, _url(cfg))
    return dict(trunk.state_dict())


def _reach(cfg: Any) -> None:
    """Raise ``OSError`` if the file is neither cached nor within reach: the hub's client would try for a
    minute."""
    import huggingface_hub

    if cfg.hf_hub_id:
        name = cfg.hf_hub_filename or HUB_FILE
        if isinstance(huggingface_hub.try_to_load_from_cache(cfg.hf_hub_id, name), str):
            return
    url = _url(cfg)
    if not url.startswith("https://"):
        return
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return  # there is somebody: what is wrong, timm will say


def _url(cfg: Any) -> str:
    """The file that timm would fetch."""
    if cfg.hf_hub_id:
        from huggingface_hub.constants import ENDPOINT

        return f"{ENDPOINT}/{cfg.hf_hub_id}/resolve/main/{cfg.hf_hub_filename or HUB_FILE}"
    return str(cfg.url)


def _read(place: str) -> Tensors:
    whole = Folder(place)
    if whole.is_file(CARD):
        card, arrays = load_model(place)
        refuse_ensemble(card.members, f"give one of its members as --weights instead of {place}")
        trunk = {
            name.removeprefix("trunk."): array for name, array in arrays.items() if name.startswith("trunk.")
        }
        return {name: torch.from_numpy(np.array(array)) for name, array in trunk.items()}
    try:
        data = whole.parent.read(whole.name)
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(
            f"--weights {place}: expected none, pretrained, a model directory, or a .safetensors or .pth file"
        ) from None
    return _parse_state_dict(data, place)


def _parse_state_dict(data: bytes, place: str) -> Tensors:
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
    for key in ("state_dict", "model"):  # what training scripts wrap it in
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise DataError(f"--weights {place} is not a state dict: expected names and tensors")
    return {str(name).removeprefix("module."): tensor for name, tensor in loaded.items()}
