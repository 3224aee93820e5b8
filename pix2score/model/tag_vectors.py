"""All probabilities of a head of tags, computed from the embeddings that a night stored.

A row of scores holds the tags above their thresholds; the whole vector is one matrix product away, so it is
not stored. Shapes: N rows of a block, D embedding, V tags.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import Id, Key
from pix2score.errors import DataError
from pix2score.heads.tags import TagsHead, probabilities
from pix2score.model.card import ModelCard
from pix2score.model.folder import Weights, load_model
from pix2score.model.members import refuse_ensemble
from pix2score.snapshots.identity import model_of
from pix2score.snapshots.manifest import live
from pix2score.snapshots.read import read_embeddings
from pix2score.storage.arrow import fixed_lists, matrix

BLOCK_ROWS = 1_024


def tag_vectors(scores: str, model: str, keys: Id | Key | Sequence[Id | Key]) -> pa.Table:
    """The probability of every tag of the model for each of the given illustrations.

    Args:
        scores: scores folder; the embeddings of its live snapshot are used.
        model: the model folder that it was scored with.
        keys: an ``illust_id`` (its page 0), an (``illust_id``, ``page``), or a list of those.

    Returns:
        Columns ``illust_id``, ``page``, and ``<h>_probs`` (fixed list of float32 [V]) of each head of tags,
        in the order asked. The field's metadata have the names of the tags as JSON under ``tags``.

    Raises:
        DataError: no snapshot or no model, another model than the snapshot's, one without a head of tags, or
            a key without an embedding (not in the catalog, or its image failed).
    """
    card, weights = load_model(model)
    refuse_ensemble(card.members, "its tags do not follow from the stored embedding; score has them")
    heads = [head for head in card.heads if isinstance(head, TagsHead)]
    if not heads:
        raise DataError(f"model {model} has no head of kind tags")
    scored_with = live(scores).manifest["model_version"]
    if model_of(scored_with) != card.version:
        raise DataError(f"{scores} was scored with model {scored_with}; {model} is {card.version}")
    asked = [
        key if isinstance(key, tuple) else (key, 0) for key in (keys if isinstance(keys, list) else [keys])
    ]
    embedding_ND = np.stack(list(_embeddings(scores, asked)))
    ids = read_embeddings(scores).schema.field("illust_id").type
    columns = [pa.array([key[0] for key in asked], ids), pa.array([key[1] for key in asked], pa.int32())]
    fields = [pa.field("illust_id", ids), pa.field("page", pa.int32())]
    for head in heads:
        columns.append(fixed_lists(_probs(head, card, weights, embedding_ND)))
        names = json.dumps(head.names, ensure_ascii=False)
        fields.append(pa.field(f"{head.name}_probs", columns[-1].type, metadata={"tags": names}))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _embeddings(scores: str, keys: Sequence[Key]) -> Iterator[npt.NDArray[np.float32]]:
    """Of each key, in order; the files are read once, those of other keys are skipped by their statistics."""
    dataset = read_embeddings(scores)
    try:
        wanted = pa.array(sorted({key[0] for key in keys}), dataset.schema.field("illust_id").type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError):
        kind = dataset.schema.field("illust_id").type
        raise DataError(f"keys {list(keys)[:3]}: the ids of {scores} are {kind}") from None
    found: dict[Any, npt.NDArray[np.float32]] = {}
    batches = dataset.scanner(
        columns=["illust_id", "page", "embedding"],
        filter=pc.field("illust_id").isin(wanted),
        batch_size=BLOCK_ROWS,
        fragment_readahead=1,
    ).to_batches()
    for batch in batches:
        if batch.num_rows:
            rows = matrix(pa.chunked_array([batch.column(2)])).astype(np.float32)
            found |= dict(
                zip(zip(*(batch.column(i).to_pylist() for i in (0, 1)), strict=True), rows, strict=True)
            )
    for key in keys:
        if key not in found:
            raise DataError(
                f"{key[0]!r}, page {key[1]}, has no embedding in {scores}: not in its catalog, or its image "
                "failed or is pending"
            )
        yield found[key]


def _probs(
    head: TagsHead, card: ModelCard, weights: Weights, embedding_ND: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    layer = f"outputs.{head.name}_logits"
    outputs_NV = embedding_ND @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
    return probabilities(head.answer(outputs_NV, card.calibration(head.name)).logits)
