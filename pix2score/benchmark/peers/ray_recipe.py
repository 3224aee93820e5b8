"""Ray Data's recipe for batch inference on images: https://docs.ray.io/en/latest/data/batch_inference.html"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import ray
import torch
from ray.data import ActorPoolStrategy
from torchvision import transforms

from pix2score.benchmark.peers.network import MEAN, STD, answers, load


class Predict:
    """An actor that holds the network."""

    def __init__(self, model: str) -> None:
        self.network, _ = load(model)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"path": batch["path"], **answers(self.network, torch.from_numpy(np.stack(batch["image"])))}


def main(images: str, model: str, out: str) -> None:
    """Score ``images`` into ``out``."""
    _, size = load(model)
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Resize((size, size)), transforms.Normalize(MEAN, STD)]
    )

    def transformed(row: dict[str, Any]) -> dict[str, Any]:
        row["image"] = transform(row["image"]).numpy()
        return row

    ray.data.read_images(images, include_paths=True, mode="RGB").map(transformed).map_batches(
        Predict, fn_constructor_args=(model,), batch_size=32, compute=ActorPoolStrategy(size=1)
    ).write_parquet(out)


if __name__ == "__main__":
    main(*sys.argv[1:4])
