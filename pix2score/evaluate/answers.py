"""The second stage of evaluation in workers: pixels into the models' answers, and where they look."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.cluster.alike import check_worker
from pix2score.errors import DataError
from pix2score.evaluate.alterations import ALTERATIONS, ORIGINAL
from pix2score.evaluate.sample import draw_of, keys_of
from pix2score.heads.compared import by_row, num_others
from pix2score.heads.spec import HeadSpec
from pix2score.images.columns import pixels_of
from pix2score.model.admission import Admission, load_admitted
from pix2score.model.predictor import Predictor, load_predictor
from pix2score.storage.arrow import fixed_lists

if TYPE_CHECKING:
    from pix2score.evaluate.adversarial import Adversary

logger = logging.getLogger(__name__)


def _said_of_sets(
    predictor: Predictor, head: HeadSpec, said_N1: npt.NDArray[np.float32], others: pa.ChunkedArray
) -> npt.NDArray[np.float32]:
    """What a head says of the images of each row side by side, [N, MAX_IMAGES]; NaN where there is none."""
    flat = pa.chunked_array([others.combine_chunks().flatten()])
    prediction = predictor.predict(pixels_of(flat, predictor.card.preprocess))
    of_others = head.measured(prediction.heads[head.name])[:, 0]
    return by_row(said_N1[:, 0], of_others, num_others(others)).astype(np.float32)


class AnswerRows:
    """Ray Data stage: rows of ``decode_for_evaluation`` in, the models' answers out.

    Instead of the pixels, rows have ``<h>_outputs_<i>`` of each model, calibrated (``HeadSpec.measured``); of
    a head that compares those of all images of the row, MAX_IMAGES of them.

    Where ``altered_<name>`` is not null, ``<h>_altered_<name>`` has the first model's of that copy. For a
    share ``explained`` of the rows, ``<h>_saliency`` is a JPEG that shows where the first model looks; of a
    share ``adversarial``, ``<h>_adversarial`` is whether it can be led to another answer.
    """

    def __init__(
        self,
        models: Sequence[str],
        pixels: Sequence[int],
        *,
        explained: float = 0.0,
        adversarial: float = 0.0,
        graphs: Sequence[bytes | None] = (),
        admission: Admission | None = None,
        **settings: Any,
    ) -> None:
        """Load the models; ``admission``: of the engine of fewer bits by which the first one answers."""
        check_worker()
        self._explained, self._attacked = explained, adversarial
        self._kept: Adversary | None = None
        of_models = zip(models, graphs or [None] * len(models), strict=True)
        self._predictors = [
            load_admitted(model, admission, **settings)
            if admission and not number
            else load_predictor(model, graph=graph, **settings)
            for number, (model, graph) in enumerate(of_models)
        ]
        self._pixels = pixels

    def __call__(self, rows: pa.Table) -> pa.Table:
        columns = {
            name: rows.column(name)
            for name in rows.column_names
            if not name.startswith(("pixels_", "altered_", "others_"))
        }
        for i, (predictor, pixels) in enumerate(zip(self._predictors, self._pixels, strict=True)):
            prediction = predictor.predict(
                pixels_of(rows.column(f"pixels_{pixels}"), predictor.card.preprocess)
            )
            for head in predictor.card.heads:  # the metrics then see exactly what scoring answers
                said = head.measured(prediction.heads[head.name])
                if head.COMPARES and f"others_{pixels}" in rows.column_names:
                    said = _said_of_sets(predictor, head, said, rows.column(f"others_{pixels}"))
                columns[f"{head.name}_outputs_{i}"] = fixed_lists(said)
        for name in (*ALTERATIONS, ORIGINAL):
            if f"altered_{name}" in rows.column_names:
                columns |= self._altered(name, rows.column(f"altered_{name}"))
        return pa.table(columns | self._saliency(rows) | self._led(rows))

    def _led(self, rows: pa.Table) -> dict[str, pa.Array]:
        if not self._attacked:
            return {}
        names = [head.name for head in self._predictors[0].card.heads]
        columns: dict[str, list[bool | None]] = {name: [None] * rows.num_rows for name in names}
        chosen = [i for i, key in enumerate(keys_of(rows)) if draw_of(key) < self._attacked]
        if chosen:
            of_pixels = rows.column(f"pixels_{self._pixels[0]}").take(chosen)
            pixels = pixels_of(of_pixels, self._predictors[0].card.preprocess)
            for name, changed in self._adversary().changed(pixels).items():
                for i, is_changed in zip(chosen, changed.tolist(), strict=False):  # fewer where time was over
                    columns[name][i] = is_changed
        return {f"{name}_adversarial": pa.array(found, pa.bool_()) for name, found in columns.items()}

    def _adversary(self) -> Adversary:
        if self._kept is None:
            from pix2score.evaluate.adversarial import Adversary  # imports torch

            self._kept = Adversary(self._predictors[0])
        return self._kept

    def _saliency(self, rows: pa.Table) -> dict[str, pa.Array]:
        chosen = [i for i, key in enumerate(keys_of(rows)) if draw_of(key) < self._explained]
        found, predictor = {}, self._predictors[0]
        for head in predictor.card.heads:
            shown: list[bytes | None] = [None] * rows.num_rows
            if chosen:
                from pix2score.evaluate.saliency import overlay, saliency  # imports torch

                pixels = pixels_of(
                    rows.column(f"pixels_{self._pixels[0]}").take(chosen), predictor.card.preprocess
                )
                try:
                    maps = saliency(predictor, head, pixels)
                except DataError as exc:  # the numbers are what was asked for
                    logger.warning("%s", exc)
                    chosen, maps = [], np.zeros((0, 0, 0), np.float32)
                for i, image, map_SS in zip(chosen, pixels[: len(chosen)], maps, strict=True):
                    shown[i] = overlay(image, map_SS)
            found[f"{head.name}_saliency"] = pa.array(shown, pa.binary())
        return found

    def _altered(self, name: str, copies: pa.ChunkedArray) -> dict[str, pa.Array]:
        predictor = self._predictors[0]
        present = np.flatnonzero(pc.is_valid(copies).to_numpy())
        take = np.full(len(copies), -1, dtype=np.int64)
        take[present] = np.arange(len(present))
        prediction = predictor.predict(pixels_of(copies.drop_null(), predictor.card.preprocess))
        indices = pa.array(take, mask=take < 0)
        return {
            f"{head.name}_altered_{name}": fixed_lists(head.measured(prediction.heads[head.name])).take(
                indices
            )
            for head in predictor.card.heads
        }
