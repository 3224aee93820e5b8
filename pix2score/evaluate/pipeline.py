"""The Ray Data pipeline of an evaluation: shards of one split in, answers of the models out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from pix2score.cluster.offer import Offer
from pix2score.cluster.source import ParquetParts
from pix2score.cluster.task_sizes import MAX_TASK_ROWS, SHARD_ROW_BYTES, block_rows
from pix2score.dataset.card import PreparedDataset
from pix2score.evaluate.answers import AnswerRows
from pix2score.evaluate.perturbations import Perturbation
from pix2score.evaluate.perturbed import decode_perturbed, sampled_parts
from pix2score.evaluate.sample import Sample
from pix2score.evaluate.stages import decode_for_evaluation
from pix2score.images.preprocess import Preprocess
from pix2score.metrics.formulas import Floats
from pix2score.model.admission import Admission
from pix2score.model.card import ModelCard
from pix2score.model.predictor import Engine, graph_if_absent
from pix2score.storage.parts import Part

NUM_EXPLAINED = 12
"""Images of which the report shows where each head looks, about."""
ANSWER_ROWS = 256
"""Rows that an actor answers at a time."""
GPU_BATCH, CPU_BATCH = 256, 32
"""Images in one forward pass."""
PERTURBED_ROWS = 32
"""Rows that a task alters at a time; at 224 px and 12 perturbations they give 60 MB, table by table."""
ANSWER_CPUS = 0.5
"""CPUs that an answering actor holds in Ray's books. Other than the 1 of the decoding tasks before it, since
Ray fuses neighbouring stages that ask for the same: they would then decode and answer by turns."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationPipeline:
    """One split, answered by models whose heads it has."""

    models: Sequence[str]
    """Model folders, the candidate first."""
    cards: Sequence[ModelCard]
    dataset: PreparedDataset
    split: str
    offer: Offer
    use_gpu: bool
    engine: Engine = "auto"
    """Of float32, where ``admission`` is not given."""
    admission: Admission | None = None
    """Of the engine of fewer bits by which the first model answers."""
    num_adversarial: int = 0
    """Images of which each head is led to another answer, about."""
    num_explained: int = NUM_EXPLAINED
    """Images of which it is found where each head looks, about."""

    def rows(self, ridges: Mapping[str, Floats], sample: Sample) -> ray.data.Dataset:
        """Rows of ``stages.AnswerRows``, lazily."""
        # Two models of one preprocessing share their pixels.
        preprocesses = list(dict.fromkeys(card.preprocess for card in self.cards))
        num_rows = self.dataset.num_rows(self.split)
        shares = {"explained": self.num_explained / num_rows, "adversarial": self.num_adversarial / num_rows}
        decoded = self._decoded(preprocesses, ridges, sample)
        return self._answered(decoded, self.models, preprocesses, num_rows, **shares)

    def perturbed_rows(self, perturbations: Sequence[Perturbation], num_rows: int) -> ray.data.Dataset:
        """Rows of ``stages.AnswerRows`` by the first model, with ``perturbed.COPY``, lazily."""
        parts, share = sampled_parts(self.dataset, self.split, num_rows)
        preprocess, heads = self.cards[0].preprocess, tuple(self.cards[0].heads)
        # Each row's copies go out as a table: few rows are in memory, however many copies there are.
        decoded = _read(self.dataset, parts).map_batches(
            decode_perturbed,
            fn_kwargs={
                "heads": heads,
                "preprocess": preprocess,
                "perturbations": tuple(perturbations),
                "share": share,
            },
            batch_format="pyarrow",
            batch_size=PERTURBED_ROWS,
            **self.offer.decode_placement(),
        )
        num_copies = min(num_rows, self.dataset.num_rows(self.split)) * (1 + len(perturbations))
        return self._answered(decoded, self.models[:1], [preprocess], num_copies)

    def _decoded(
        self, preprocesses: Sequence[Preprocess], ridges: Mapping[str, Floats], sample: Sample
    ) -> ray.data.Dataset:
        most = min(MAX_TASK_ROWS, *(block_rows(p) // len(preprocesses) for p in preprocesses))
        arguments = {"heads": tuple(self.cards[0].heads), "preprocesses": preprocesses}
        return shards(self.dataset, self.split).map_batches(
            decode_for_evaluation,
            fn_kwargs={**arguments, "ridges": ridges, "sample": sample},
            batch_format="pyarrow",
            batch_size=max(1, int(most // self.dataset.images_per_row(self.split))),
            **self.offer.decode_placement(),
        )

    def _answered(
        self,
        rows: ray.data.Dataset,
        models: Sequence[str],
        preprocesses: Sequence[Preprocess],
        num_rows: int,
        **shares: float,
    ) -> ray.data.Dataset:
        use_gpu, cards = self.use_gpu, self.cards[: len(models)]
        settings = self.offer.predictor_settings(use_gpu=use_gpu)
        pixels = [preprocesses.index(card.preprocess) for card in cards]
        pairs = zip(models, cards, strict=True)
        needs_none = use_gpu or self.engine == "torch"
        graphs = [None if needs_none else graph_if_absent(model, card) for model, card in pairs]
        return rows.map_batches(
            AnswerRows,
            fn_constructor_args=(models, pixels),
            fn_constructor_kwargs={
                "graphs": graphs,
                "engine": self.engine,
                "admission": self.admission,
                "batch_size": GPU_BATCH if use_gpu else CPU_BATCH,
                **settings,
                **shares,
            },
            batch_format="pyarrow",
            batch_size=ANSWER_ROWS,
            compute=self.offer.predictor_pool(use_gpu=use_gpu, num_batches=-(-num_rows // ANSWER_ROWS)),
            num_cpus=ANSWER_CPUS,
            num_gpus=1 if use_gpu else 0,
        )


def shards(dataset: PreparedDataset, split: str) -> ray.data.Dataset:
    """Rows of a split's shards as they are stored, lazily."""
    return _read(dataset, dataset.parts(split))


def _read(dataset: PreparedDataset, parts: Sequence[Part]) -> ray.data.Dataset:
    return ray.data.read_datasource(ParquetParts(dataset.folder, parts, row_bytes=SHARD_ROW_BYTES))
