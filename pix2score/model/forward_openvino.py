"""A trunk on a CPU by OpenVINO, whose kernels use AMX and VNNI for 8 bits and bfloat16.

Measured beside ONNX Runtime's float32 at 224 px on one core with AMX: benchmark/README.md.
"""

from __future__ import annotations

from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino

from pix2score.heads.spec import Floats
from pix2score.host.cores import num_cores
from pix2score.model.forward_onnx import PIXELS


class OpenVinoTrunk:
    """Embeddings of batches of one size. Safe to call from several threads."""

    def __init__(self, graph: bytes, *, batch_size: int, num_threads: int | None, bf16: bool) -> None:
        """``graph``: pixels to embedding, weights inside. ``num_threads``: of one call, None for all cores.

        ``bf16``: what the graph has in float32 is computed in bfloat16.
        """
        core, cores = openvino.Core(), num_cores()
        model = core.read_model(graph, b"")
        (pixels,) = model.inputs
        model.reshape({PIXELS: [batch_size, *list(pixels.get_partial_shape())[1:]]})
        num_calls = max(1, cores // (num_threads or cores))
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": num_calls * (num_threads or cores),
            "NUM_STREAMS": num_calls,  # one would let calls of several threads wait for each other
            "ENABLE_CPU_PINNING": False,  # the cores are shared with what decodes
        }
        self._model = core.compile_model(model, "CPU", settings)
        # Not of each thread: destroyed with a thread of Ray's they take the process with them.
        self._free: SimpleQueue[Any] = SimpleQueue()
        # The first call loads what later ones share; made by two threads at a time it never returned.
        self(np.zeros([int(side) for side in pixels.shape], np.uint8))

    def __call__(self, pixels_BSSC: npt.NDArray[np.uint8]) -> Floats:
        """Embedding float32 [B, D]."""
        try:
            request = self._free.get_nowait()
        except Empty:
            request = self._model.create_infer_request()
        (found,) = request.infer({PIXELS: np.ascontiguousarray(pixels_BSSC)}).values()
        embedding: Floats = np.array(found, np.float32)  # the request's own memory is written again
        self._free.put(request)
        return embedding
