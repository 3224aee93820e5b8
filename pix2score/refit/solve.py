"""Heads solved over stored embeddings: how much each may learn is chosen on a sample, then all rows count.

Shapes: N rows, D embedding, B rows of a batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import pyarrow as pa
import torch

from pix2score.heads.spec import HeadSpec
from pix2score.images.preprocess import Preprocess
from pix2score.metrics.kinds import accumulator
from pix2score.metrics.protocol import Accumulator
from pix2score.model.answers import EmbeddingPredictor
from pix2score.model.network import MultiHeadModel
from pix2score.refit.rows import SplitRows
from pix2score.train.step.batch import Batch
from pix2score.train.step.precision import Caster
from pix2score.train.step.probe import NUM_STRENGTHS, Probe, ProbePath
from pix2score.train.step.recipe import Recipe
from pix2score.train.step.validate import measure, validation_loss

logger = logging.getLogger(__name__)
BATCH_ROWS = 4_096
PASSES_OVER_ALL = 8
"""Of L-BFGS, where it begins close to the end."""
CPU = torch.device("cpu")


def batch_of(rows: SplitRows, heads: Sequence[HeadSpec]) -> Batch:
    """All rows of a split; embeddings stay where they are, [N, D], in the precision that they have there."""
    targets, labels = {}, {}
    for head in heads:
        given = rows.labels.column(f"{head.name}_label").combine_chunks()
        encoded = pa.chunked_array([head.encode(given)])
        targets[head.name] = torch.tensor(head.targets(encoded))
        labels[head.name] = torch.tensor(head.label_values(pa.chunked_array([given])))
    return Batch(torch.from_numpy(rows.embedding_ND), targets, labels)


def solved(
    model: MultiHeadModel, heads: Sequence[HeadSpec], train: Batch, val: Batch, sample_rows: int
) -> tuple[list[Accumulator], dict[str, float]]:
    """Solve the outputs of ``model``; their metrics on ``val``, and the strength of each head's penalty.

    Strengths are tried on the first ``sample_rows`` rows, which are as good as any, as rows are mixed. Over
    more rows the chosen one is solved again from there, with a penalty that weighs as much less as there are
    more rows, and kept where validation likes it better.
    """
    num_rows = len(train.pixels_BSSC)
    sample = train.rows(slice(0, sample_rows)) if num_rows > sample_rows else train
    probe, path = (
        Probe(model, sample, heads, Recipe(), CPU),
        ProbePath(model, heads, NUM_STRENGTHS, {}),
    )
    metrics: list[Accumulator] = []
    for number, strength in enumerate(path.strengths):
        if not (still := path.open_heads(number)):
            break
        probe.solve(still, strength)
        metrics = path.keep_better(measured(model, val, heads), number)
        loss = validation_loss(metrics)
        logger.info("penalty %.3g of %d rows: validation %.3f", strength, len(sample.pixels_BSSC), loss)
    if num_rows > sample_rows:
        logger.info("solving over all %d rows", num_rows)
        whole = Probe(model, train, heads, Recipe(), CPU, max_passes=PASSES_OVER_ALL)
        before = dict(path.kept)
        for head in heads:
            whole.solve([head], before[head.name] * sample_rows / num_rows)
        metrics = path.keep_better(measured(model, val, heads), NUM_STRENGTHS - 1)
        path.kept.update(before)
        logger.info("all %d rows: validation %.3f", num_rows, validation_loss(metrics))
    return metrics, dict(path.kept)


def measured(model: MultiHeadModel, rows: Batch, heads: Sequence[HeadSpec]) -> list[Accumulator]:
    """Metrics of ``model`` on all rows of a split."""
    return measure(model, _pieces(rows), heads, Preprocess(), CPU, Caster("fp32", CPU))


def measured_by(predictor: EmbeddingPredictor, rows: Batch, heads: Sequence[HeadSpec]) -> list[Accumulator]:
    """The same of the answers of a saved model."""
    metrics = [accumulator(head) for head in heads]
    for piece in _pieces(rows):
        answers = predictor.predict(piece.pixels_BSSC.numpy()).heads
        for metric in metrics:
            name, head = metric.head.name, metric.head
            said = head.measured(answers[name])
            metric.add(said, piece.targets[name].numpy(), piece.labels[name].numpy())
    return metrics


def _pieces(rows: Batch) -> Iterator[Batch]:
    """Float32 embeddings, ``BATCH_ROWS`` at a time."""
    for start in range(0, len(rows.pixels_BSSC), BATCH_ROWS):
        piece = rows.rows(slice(start, start + BATCH_ROWS))
        yield piece.with_images(piece.images.float())
