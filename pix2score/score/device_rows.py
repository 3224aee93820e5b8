"""Rows that came with encoded JPEGs get their pixels.

On the device of the model, or by the decode child where that cannot do it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.errors import ImageFailure
from pix2score.images.columns import ENCODED, pixel_type
from pix2score.images.decoder_pool import decoder_for
from pix2score.images.preprocess import Preprocess
from pix2score.model.device_decode import DeviceDecoder


@dataclass(frozen=True, slots=True)
class DeviceRows:
    """Turns what ``cluster.decode.fetch_and_decode`` gives with ``gpu_decode`` into what it gives without."""

    preprocess: Preprocess
    decoder: DeviceDecoder

    def __call__(self, rows: pa.Table) -> pa.Table:
        """The same rows, all with pixels or a failure."""
        column = rows.column(ENCODED)
        at = np.flatnonzero(column.is_valid().to_numpy()).tolist()
        encoded: list[bytes] = column.drop_null().to_pylist()
        rows = rows.drop_columns([ENCODED])
        pixels = _pixels(rows, self.preprocess)
        failures: dict[int, ImageFailure] = {}
        for i, data, answer in zip(at, encoded, self.decoder(encoded), strict=True):
            try:
                pixels[i] = self._anyway(data) if answer is None else answer.ravel()
            except ImageFailure as failure:
                failures[i] = failure
        return _filled(rows, pixels, failures, self.preprocess)

    def _anyway(self, data: bytes) -> npt.NDArray[np.uint8]:
        with decoder_for(self.preprocess) as decoder:
            return np.frombuffer(decoder(data), np.uint8)


def _pixels(rows: pa.Table, preprocess: Preprocess) -> npt.NDArray[np.uint8]:
    """uint8 [N, S*S*3]; zeros where there are none."""
    pixels = np.zeros((rows.num_rows, pixel_type(preprocess).byte_width), np.uint8)
    for i, data in enumerate(rows.column("data")):
        if data.is_valid:
            pixels[i] = np.frombuffer(data.as_buffer(), np.uint8)
    return pixels


def _filled(
    rows: pa.Table, pixels: npt.NDArray[np.uint8], failures: dict[int, ImageFailure], preprocess: Preprocess
) -> pa.Table:
    codes, details = (rows.column(name).to_pylist() for name in ("error_code", "error_detail"))
    for i, failure in failures.items():
        codes[i], details[i] = failure.code, failure.detail
    valid = pa.array([code is None for code in codes], pa.bool_()).buffers()[1]
    columns = {
        "data": pa.Array.from_buffers(pixel_type(preprocess), len(codes), [valid, pa.py_buffer(pixels)]),
        "error_code": pa.array(codes, pa.string()),
        "error_detail": pa.array(details, pa.string()),
    }
    for name, column in columns.items():
        rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows
