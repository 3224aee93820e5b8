"""ascend: pictures moved until a head of a model answers as wanted.

What a head wants shows in what changes; how little sways it, in how small the change is.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, cast

import torch

from pix2score.ascend.ascent import Explained, ascended
from pix2score.ascend.config import AscendConfig
from pix2score.ascend.measure import MAGNIFIED, measured, pictures
from pix2score.cli.flags import as_plain
from pix2score.cli.summary import recorded
from pix2score.errors import ConfigError, DataError, ImageFailure
from pix2score.heads.aims import Aim, aims_of
from pix2score.heads.spec import HeadSpec
from pix2score.images.decoder import Decoder
from pix2score.images.preprocess import RGBPixels
from pix2score.model.card import ModelCard
from pix2score.model.folder import load_model
from pix2score.model.forward_torch import network_of
from pix2score.serve.model import read_pixels, torch_device
from pix2score.storage.folder import Folder
from pix2score.summaries import AscendSummary

logger = logging.getLogger(__name__)


def ascend(config: AscendConfig) -> AscendSummary:
    """Write each picture before and after and their difference to ``config.out``; return what was reached.

    Raises ``ConfigError``: no such head, or nothing that it could be moved towards. Raises ``DataError``: no
    model; or, after doing all others, an image that cannot be decoded.
    """
    card, weights = load_model(config.model)
    head, out = _head(card, config.head), Folder(config.out)
    if config.towards is not None:
        aims_of(head).towards(head, config.towards, card.calibration(head.name))  # refused before anything
    device = torch_device(config.device)
    facts = {"job": "ascend", "model_version": card.version, "head": head.name}
    with recorded(out, "summary.json", facts) as summary:
        model = Explained(network_of(card, weights, device).requires_grad_(False), card)
        summary.update(config=as_plain(config), images=[])
        failed = _each(config, model, head, out, summary["images"])
        if failed:
            raise DataError(
                f"{len(failed)} of {len(config.image)} images gave no pixels: {'; '.join(failed)}"
            )
    return cast("AscendSummary", summary)


def _head(card: ModelCard, name: str) -> HeadSpec:
    by_name = {head.name: head for head in card.heads}
    if name not in by_name:
        near = difflib.get_close_matches(name, by_name, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(by_name)}"
        raise ConfigError(f"--head {name}: the model has no such head; {hint}")
    return by_name[name]


def _each(
    config: AscendConfig, model: Explained, head: HeadSpec, out: Folder, found: list[dict[str, Any]]
) -> list[str]:
    """Add what was reached with each image to ``found``; return why others gave no pixels."""
    decoder, failed = Decoder(model.card.preprocess), []
    try:
        for path, name in zip(config.image, _names(config.image), strict=True):
            pixels = read_pixels(path, model.card.preprocess, decoder)
            if isinstance(pixels, ImageFailure):
                failed.append(f"{path}: {pixels}")
                continue
            found.append({"image": path, **_one(config, model, head, pixels, out, name)})
            logger.info("%s: %s", path, _told(found[-1]))
    finally:
        decoder.close()
    return failed


def _names(images: Sequence[str]) -> Iterator[str]:
    """A file name for each image, without its ending; of those that share one the later ones get a number."""
    seen: dict[str, int] = {}
    for image in images:
        stem = PurePosixPath(image).stem or "image"
        seen[stem] = seen.get(stem, 0) + 1
        yield stem if seen[stem] == 1 else f"{stem}_{seen[stem]}"


def _one(
    config: AscendConfig, model: Explained, head: HeadSpec, pixels: RGBPixels, out: Folder, name: str
) -> dict[str, Any]:
    aim, bound = _aim(config, model, head, pixels), config.bound_share
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        moved = ascended(model, head, pixels, aim, bound=bound, num_steps=config.steps, robust=config.robust)
    numbers, after = measured(model, head, aim, pixels, moved, bound)
    if not all(map(math.isfinite, numbers["aimed"].values())):
        raise DataError(f"model {model.card.version}: its answer is NaN or infinite")
    files = {}
    for part, data in pictures(pixels, after).items():
        out.publish(f"{name}_{part}.png", data, replace=True)
        files[part] = out.full(f"{name}_{part}.png")
    return {"aim": str(aim), **numbers, "files": files}


def _aim(config: AscendConfig, model: Explained, head: HeadSpec, pixels: RGBPixels) -> Aim:
    calibration = model.card.calibration(head.name)
    if config.towards is not None:
        return aims_of(head).towards(head, config.towards, calibration)
    with torch.no_grad():
        outputs = model.outputs(torch.from_numpy(pixels.copy())[None].to(model.device), head)
    return aims_of(head).up(head, head.answer(outputs.float().cpu().numpy(), calibration), 0)


def _told(found: dict[str, Any]) -> str:
    """One line for a person."""
    aimed = {stage: f"{number:.4g}" for stage, number in found["aimed"].items()}
    left = ", ".join(f"{stage} {aimed[stage]}" for stage in list(aimed)[2:])
    psnr = "nothing changed" if found["psnr_db"] is None else f"PSNR {found['psnr_db']:.1f} dB"
    return (
        f"{found['aim']}: {aimed['before']} -> {aimed['after']} ({left}); pixels moved by at most "
        f"{found['linf_255']} of 255, {psnr}; wrote {found['files']['after']}, the picture before and "
        f"{MAGNIFIED} times the difference"
    )
