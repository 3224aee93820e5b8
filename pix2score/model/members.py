"""What an ensemble says of each of its members, in the card of the model: plain values.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pix2score.errors import DataError
from pix2score.heads.spec import Calibration
from pix2score.snapshots.tables import EmbeddingDtype


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A network of an ensemble, whose weights are those named ``members.<number>.…``."""

    version: str
    """``model_version`` of the model that it was."""
    backbone: str
    hidden: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Of its own normalisation; all else of the pixels is shared."""
    losses: dict[str, str]
    """Head -> the loss that it learnt by, which says how many outputs it has."""
    calibrations: dict[str, Calibration]
    """Head -> what its outputs were calibrated with before they meet those of others."""
    shares: dict[str, float]
    """Head -> its weight in the mean; of all members they add to 1."""
    embedding_dtype: EmbeddingDtype | None = None
    """What its heads see the embedding rounded to."""

    def to_dict(self) -> dict[str, Any]:
        """As the card has it."""
        plain = asdict(self)
        if self.embedding_dtype is None:  # ensembles of earlier versions keep their version
            del plain["embedding_dtype"]
        return plain


def member_from_dict(plain: Mapping[str, Any]) -> Member:
    """What ``to_dict`` made. Raises ``TypeError`` for other keys."""
    return Member(**{**plain, "mean": tuple(plain["mean"]), "std": tuple(plain["std"])})


def refuse_ensemble(members: tuple[Member, ...], what: str) -> None:
    """Raise ``DataError`` where a job needs one network, and this model is several."""
    if members:
        raise DataError(f"the model is an ensemble of {len(members)} networks: {what}")
