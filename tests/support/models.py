"""Saved models that cost little, and catalogs of as many rows as asked for."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from pix2score.heads.ordered import OrderedHead
from pix2score.heads.presets import preset
from pix2score.images.preprocess import Preprocess
from pix2score.model.graph import graph_or_none
from tests.support.pictures import encode
from tests.support.torch_helpers import (
    HEADS,
    NARROW,
    pixels,
    save_network,
    settled_model,
)


def cheap_model(place: Path, seed: int = 0) -> str:
    """An untrained resnet18 at 8 px."""

    from pix2score.model.network import MultiHeadModel

    torch.manual_seed(seed)
    heads = tuple(
        h.fitted(edges=h.edges, counts=[1] * h.num_bins, typical=list(range(h.num_bins)))
        for h in preset("pixiv")
    )
    model = MultiHeadModel("resnet18", heads)
    save_network(
        str(place),
        model,
        backbone="resnet18",
        heads=heads,
        preprocess=Preprocess(size=8),
        embedding_dim=512,
        graph=graph_or_none,  # as a training does: without it, every process would make one
    )
    return str(place)


def catalog_of(num_rows: int, path: Path, size: int = 8) -> str:
    """Embedded pictures of ``size`` px, ids of honest length."""
    out = io.BytesIO()
    Image.new("RGB", (size, size), (200, 30, 90)).save(out, "PNG")
    ids = [f"illustration-{i:011}" for i in range(num_rows)]
    table = pa.table(
        {
            "illust_id": ids,
            "image": [out.getvalue()] * num_rows,
            "etag": [f"{i:032x}" for i in range(num_rows)],
        }
    )
    pq.write_table(table, path, row_group_size=2000)
    return str(path)


def catalog_of_pictures(num_rows: int, path: Path) -> str:
    """Embedded pictures that differ, of the size of ``PREPROCESS``."""
    images = [encode(picture) for picture in pixels(num_rows)]
    ids = range(num_rows)
    pq.write_table(pa.table({"illust_id": ids, "image": images, "etag": [f"{i}" for i in ids]}), path)
    return str(path)


def save_settled(
    place: Path,
    heads: tuple[OrderedHead, ...] = HEADS,
    backbone: str = NARROW,
    bias: Mapping[str, Sequence[float]] | None = None,
    permuted: str = "",
) -> str:
    """A saved model whose outputs vary with the image.

    ``bias``: of the outputs of some heads, not random. ``permuted``: a head whose outputs are in the reverse
    order.
    """
    model = settled_model(heads, backbone=backbone)
    for name, values in (bias or {}).items():
        model.outputs[f"{name}_logits"].bias.data = torch.tensor(values)
    for parameter in model.outputs[f"{permuted}_logits"].parameters() if permuted else ():
        parameter.data = parameter.data.flip(0)
    save_network(
        str(place), model, backbone=backbone, heads=heads, temperatures={"bookmark": 1.5}, graph=graph_or_none
    )
    return str(place)
