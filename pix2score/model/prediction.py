"""What a forward pass gives: of pictures, or of their embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pix2score.heads.spec import Floats


@dataclass(frozen=True, slots=True)
class Prediction:
    """What all heads say of N images.

    ``heads`` has each head's answer as its ``HeadSpec.answer`` gives it, ``embedding`` is float32 [N, D],
    ``finite`` bool [N]: False where an output is NaN or infinite.
    """

    heads: dict[str, Any]
    embedding: Floats
    finite: npt.NDArray[np.bool_]
