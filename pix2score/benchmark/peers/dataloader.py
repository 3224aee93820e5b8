"""torch's DataLoader over files, one process per core.

As in https://pytorch.org/tutorials/beginner/data_loading_tutorial.html.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from pix2score.benchmark.peers.network import MEAN, STD, answers, load
from pix2score.host.cores import num_cores


class Images(Dataset[tuple[str, Tensor]]):
    """Pictures of a folder as normalised tensors."""

    def __init__(self, folder: str, size: int) -> None:
        self.paths = sorted(str(path) for path in Path(folder).iterdir())
        self.transform = transforms.Compose(
            [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)],
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, Tensor]:
        return self.paths[index], self.transform(Image.open(self.paths[index]).convert("RGB"))


def main(images: str, model: str, out: str) -> None:
    """Score ``images`` into ``out``."""
    network, size = load(model)
    cores = num_cores()
    torch.set_num_threads(cores)
    os.makedirs(out)
    writer = None
    for paths, image_BCHW in DataLoader(Images(images, size), batch_size=32, num_workers=cores):
        found = {name: list(values) for name, values in answers(network, image_BCHW).items()}
        table = pa.table({"path": list(paths), **found})
        writer = writer or pq.ParquetWriter(f"{out}/scores.parquet", table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:4])
