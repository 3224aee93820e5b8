"""What the tests of the torch layer share: small heads, drawn pixels, a network whose outputs are not
degenerate, two gloo workers.

Shapes: B images, S input size, K bins of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from timm.models import build_model_with_cfg, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from pix2score.heads.ordered import OrderedHead
from pix2score.images.preprocess import Preprocess
from pix2score.model.card import ModelCard
from pix2score.model.folder import save_model, trunk_weights, weights_digest
from pix2score.model.network import MultiHeadModel, normalise, weights_of
from pix2score.train.history import EpochEntry
from pix2score.train.step.batch import Batch
from pix2score.train.step.fitter import Fitter
from pix2score.train.step.recipe import Recipe

torch.set_num_threads(1)  # two cores, and networks too small to share them

CPU = torch.device("cpu")
PREPROCESS = Preprocess(size=32)
COUNT_HEAD = OrderedHead(
    name="bookmark",
    column="bookmarks",
    loss="cross_entropy",
    edges=(10, 100, 1000),
    counts=(40, 30, 20, 10),
    typical=(4.0, 40.0, 300.0, 2_400_000_000.0),
)
LEVEL_HEAD = OrderedHead(
    name="sanity",
    column="sanity",
    kind="levels",
    size=3,
    weight=0.5,
    counts=(5, 10, 5),
    typical=(0.0, 1.0, 2.0),
)
HEADS = (COUNT_HEAD, LEVEL_HEAD)
RGB = npt.NDArray[np.uint8]
NARROW_DIM = 64


@register_model  # by a name of its own, so that a card may name it
def narrow_resnet(pretrained: bool = False, **asked: Any) -> nn.Module:
    """A resnet18 with a block for two and an eighth of the width: a step of it costs a fifteenth."""
    shape = {"layers": (1, 1, 1, 1), "channels": (16, 32, 48, NARROW_DIM), "zero_init_last": False}
    model: nn.Module = build_model_with_cfg(ResNet, NARROW, pretrained, block=BasicBlock, **shape, **asked)
    return model


NARROW = "narrow_resnet"


def pixels(num_images: int, seed: int = 0, size: int = 32) -> RGB:
    """Random blocks, uint8 [N, S, S, 3]: unlike noise they differ in what a network pools."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (num_images, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2)


def batch(
    num_images: int, seed: int = 0, heads: Sequence[OrderedHead] = HEADS, missing: float = 0.0
) -> Batch:
    """Random pixels and labels; a share ``missing`` of the labels of each head is missing. A label is its
    bin."""
    rng = np.random.default_rng(seed + 10_000)
    bins = {h.name: rng.integers(0, h.num_bins, num_images) for h in heads}
    for truth in bins.values():
        truth[rng.random(num_images) < missing] = -1
    labels = {name: np.where(truth < 0, np.nan, truth.astype(np.float64)) for name, truth in bins.items()}
    return Batch(
        torch.from_numpy(pixels(num_images, seed)),
        {name: torch.from_numpy(truth.astype(np.int64)) for name, truth in bins.items()},
        {name: torch.from_numpy(label) for name, label in labels.items()},
    )


def part(whole: Batch, rows: slice) -> Batch:
    """Some rows of a batch."""
    return Batch(
        whole.pixels_BSSC[rows],
        {name: b[rows] for name, b in whole.targets.items()},
        {name: v[rows] for name, v in whole.labels.items()},
    )


def settled_model(
    heads: Sequence[OrderedHead] = HEADS, seed: int = 0, backbone: str = NARROW
) -> MultiHeadModel:
    """A random network whose BatchNorm knows the statistics of drawn pixels, in eval mode: outputs vary
    with the image."""
    torch.manual_seed(seed)
    model = MultiHeadModel(backbone, heads)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        model.train()(normalise(torch.from_numpy(pixels(32, seed=99)), PREPROCESS))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def save_network(place: str, network: MultiHeadModel, **facts: Any) -> ModelCard:
    """Save it as a model of ``HEADS`` for ``PREPROCESS``, but for what ``facts`` say otherwise."""
    usual: dict[str, Any] = {
        "backbone": NARROW,
        "heads": HEADS,
        "preprocess": PREPROCESS,
        "embedding_dim": network.embedding_dim,
        "temperatures": {},
        "about": {},
    }
    return save_model(place, weights_of(network), **{**usual, **facts})


def card_of(model: MultiHeadModel, heads: Sequence[OrderedHead] = HEADS, **temperatures: float) -> ModelCard:
    """The card of a model that was never saved."""
    return ModelCard(
        backbone=NARROW,
        heads=tuple(heads),
        preprocess=PREPROCESS,
        embedding_dim=model.embedding_dim,
        temperatures=temperatures,
        weights_sha256="0" * 64,
        embedding_dtype=model.embedding_dtype,
        trunk_sha256=weights_digest(trunk_weights(weights_of(model))),
    )


def card_and_weights(seed: int = 0, **temperatures: float) -> tuple[ModelCard, dict[str, Any]]:
    """What ``Predictor`` is made from."""
    model = settled_model(seed=seed)
    return card_of(model, **temperatures), weights_of(model)


class PoisonableModel(MultiHeadModel):
    """Its input is multiplied by ``gain``: 1e38 overflows in the first convolution, so that BatchNorm sees
    infinity."""

    gain = 1.0

    def forward(self, image_BCHW: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return super().forward(image_BCHW * self.gain)


class FrozenNormModel(MultiHeadModel):
    """BatchNorm stays in eval mode. ``offset`` is added to every logit of bin 0: -inf makes its loss
    infinite, its gradient not."""

    offset = 0.0

    def train(self, mode: bool = True) -> FrozenNormModel:
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, image_BCHW: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        logits, embedding = super().forward(image_BCHW)
        if self.offset:
            logits = {
                name: torch.cat([x[:, :1] + self.offset, x[:, 1:]], dim=1) for name, x in logits.items()
            }
        return logits, embedding


def seeded(
    kind: type[MultiHeadModel],
    seed: int = 0,
    heads: Sequence[OrderedHead] = HEADS,
    backbone: str = NARROW,
) -> MultiHeadModel:
    """A fresh network whose initial weights depend on the seed alone."""
    torch.manual_seed(seed)
    return kind(backbone, heads)


def frozen_copy() -> FrozenNormModel:
    """``settled_model`` with frozen BatchNorm, so that its outputs are neither huge nor dependent on batch
    mates."""
    model = FrozenNormModel(NARROW, HEADS)
    model.load_state_dict(settled_model().state_dict())
    return model


def fitter_of(
    network: nn.Module, heads: Sequence[OrderedHead] = HEADS, device: torch.device = CPU, **recipe: Any
) -> Fitter:
    """A fitter with a short recipe."""
    return Fitter(network, heads, PREPROCESS, Recipe(**{"total_steps": 20, **recipe}), device)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def assert_same_state(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal to the bit; the message names what differs."""
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def on_two_workers(work: Callable[[int], dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What ``work(rank)`` gives on two gloo workers in processes of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.multiprocessing.spawn(_worker, (work, str(folder)), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def _worker(rank: int, work: Callable[[int], dict[str, Any]], folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(work(rank), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def entry(**numbers: float | None) -> EpochEntry:
    """An epoch of a version that wrote no more than this."""
    return {
        "epoch": 1,
        "steps": 4,
        "loss": 1.0,
        "loss_by_head": {"bookmark": 1.0},
        "skipped_steps": 0,
        "val_loss": 0.9,
        "val": {"bookmark": numbers},
        "temperatures": {"bookmark": 1.0},
        "learning_rate": 0.1,
        "seconds": 2.0,
    }
