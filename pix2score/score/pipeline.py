"""Scoring as one streaming Ray Data execution.

Slices of a plan -> fetch and decode -> predict -> staged pieces. On a cluster decoding is a stage of CPU
tasks, which go to the nodes made for them and to nodes that join late, and predicting one of an actor per GPU
or node. On one machine without GPUs actors do both, several slices at a time: no pixels travel between
processes, and no core waits for another.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray

from pix2score.catalog.contents import ImageRows
from pix2score.cluster.decode import decoded_rows
from pix2score.cluster.local import is_local
from pix2score.cluster.offer import Offer
from pix2score.cluster.progress import Meter
from pix2score.cluster.sink import Staging
from pix2score.cluster.stage_times import Slots
from pix2score.images.failure_limits import ALL_MISSING_ROWS
from pix2score.images.preprocess import Preprocess
from pix2score.model.admission import Admission
from pix2score.model.predictor import Engine, Precision
from pix2score.score.stages import ScoreImages, stage_piece
from pix2score.snapshots.pieces import Origin, Receipt
from pix2score.snapshots.tables import Layout
from pix2score.storage.folder import Folder
from pix2score.storage.parts import Part, total_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorePipeline:
    """Everything that a night's rows go through, whichever rows they are."""

    model: str
    preprocess: Preprocess
    origin: Origin
    layout: Layout
    images: ImageRows
    out: Folder
    offer: Offer
    use_gpu: bool
    is_apart: bool
    """Whether decoding and predicting are stages of their own, as they must be on a cluster and where GPUs
    predict."""
    gpu_decode: bool
    """Whether predictors decode plain JPEGs, as GPUs can."""
    engine: Engine
    admission: Admission | None = None
    """Of an engine of fewer bits, which then runs the network."""
    graph: bytes | None
    """Of a model folder that lacks one: made once, here, and not by every actor."""
    compiled: bool
    precision: Precision
    batch_size: int
    """Images per forward pass."""
    part_rows: int
    """Rows per staged piece."""

    def receipts(
        self, parts: Sequence[Part], prefix: str, is_over: Callable[[], bool] | None = None
    ) -> Iterator[Receipt]:
        """A receipt for every piece as it is staged; ``prefix`` of the pieces' names.

        Once ``is_over``, nothing more is begun, and what was finished by then is staged.
        """
        write = functools.partial(stage_piece, out=self.out, origin=self.origin, layout=self.layout)
        meter = Meter("scored", total_rows(parts), logger)
        with ThreadPoolExecutor(1) as threads:
            writer = threads if is_local() and not self.use_gpu else None
            dataset = self._dataset(parts)
            yield from Staging(
                dataset,
                write,
                self.part_rows,
                prefix,
                first_rows=ALL_MISSING_ROWS,
                writer=writer,
                meter=meter,
                is_over=is_over,
            ).receipts()

    def slots(self, num_rows: int) -> Slots:
        """How many images each stage works on at a time, when ``num_rows`` are scored."""
        num_actors = int(self._predicting(num_rows)["compute"].initial_size)
        if self.is_apart:
            return Slots(self.offer.num_decode_cpus, num_actors, 1)
        num_calls = num_actors * self.offer.cpu_workers().num_calls
        return Slots(num_calls, num_calls, 1, is_shared=True)

    def _dataset(self, parts: Sequence[Part]) -> ray.data.Dataset:
        """SCORES rows with their embeddings."""
        predicting = self._predicting(total_rows(parts))
        placement = (
            None if self.is_apart else {"num_cpus": predicting["num_cpus"]}
        )  # equal, so that Ray runs both stages in one
        settings = (
            self.offer.predictor_settings(use_gpu=self.use_gpu)
            if self.is_apart
            else {"device": "cpu", "num_threads": 1}
        )
        rows = decoded_rows(
            self.out,
            parts,
            self.images,
            self.preprocess,
            self.offer,
            placement,
            gpu_decode=self.gpu_decode,
        )
        return rows.map_batches(
            ScoreImages,
            fn_constructor_args=(self.model,),
            fn_constructor_kwargs={
                "origin": self.origin,
                "layout": self.layout,
                "batch_size": self.batch_size,
                "engine": self.engine,
                "admission": self.admission,
                "graph": self.graph,
                "compiled": self.compiled,
                "precision": self.precision,
                "gpu_decode": self.gpu_decode,
                **settings,
            },
            batch_format="pyarrow",
            batch_size=self.batch_size if self.use_gpu else None,
            **predicting,
        )

    def _predicting(self, num_rows: int) -> dict[str, Any]:
        """Options of the stage that runs the model."""
        num_batches = -(-num_rows // self.batch_size)
        if self.is_apart:
            pool = self.offer.predictor_pool(use_gpu=self.use_gpu, num_batches=num_batches)
            return {"compute": pool, "num_cpus": 1, "num_gpus": 1 if self.use_gpu else 0}
        workers = self.offer.cpu_workers()
        return {"compute": workers.pool(num_batches), "num_cpus": workers.num_cpus}
