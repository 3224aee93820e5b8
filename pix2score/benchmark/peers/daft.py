"""Daft's recipe for images and a class that holds a model: https://docs.daft.ai/en/stable/custom-code/cls/"""

from __future__ import annotations

import sys
from typing import Any

import daft
import numpy as np
import torch
from daft import DataType, Series, col
from daft.functions import decode_image, download, resize

from pix2score.benchmark.peers.network import MEAN, STD, answers, load


def main(images: str, model: str, out: str) -> None:
    """Score ``images`` into ``out``."""
    network, size = load(model)
    heads = {name: head.out_features for name, head in network.outputs.items()}
    fields: dict[str, Any] = {f"{name.removesuffix('_logits')}_probs": width for name, width in heads.items()}
    fields["embedding"] = network.embedding_dim
    dtype = DataType.struct(
        {name: DataType.fixed_size_list(DataType.float32(), width) for name, width in fields.items()}
    )
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)

    @daft.cls(max_concurrency=1)
    class Predict:
        def __init__(self) -> None:
            self.network, _ = load(model)

        @daft.method.batch(return_dtype=dtype, batch_size=32)  # type: ignore[untyped-decorator, unused-ignore]
        def __call__(self, image: Series) -> list[dict[str, Any]]:
            pixels = torch.from_numpy(np.stack(image.to_pylist()))
            found = answers(self.network, (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std)
            return [{name: values[i] for name, values in found.items()} for i in range(len(pixels))]

    predict = Predict()
    frame = daft.from_glob_path(f"{images}/*").with_column(
        "image", resize(decode_image(download(col("path")), mode="RGB"), size, size)
    )
    frame = frame.with_column("answer", predict(col("image")))
    columns = [col("answer").get(name).alias(name) for name in fields]
    frame.select(col("path"), *columns).write_parquet(out)


if __name__ == "__main__":
    main(*sys.argv[1:4])
