"""Kind ``preference``: a reward per image, learnt from comparisons alone: which of some images is better.

The chance that image a is preferred to b is the sigmoid of the difference of their rewards, over a
temperature (Bradley and Terry 1952; https://arxiv.org/abs/2203.02155 for sets of more than two).

Shapes: N images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.errors import ConfigError, DataError
from pix2score.heads.compared import FIRST_RANK, LABEL, padded, pairs_of
from pix2score.heads.probabilities import finite
from pix2score.heads.quantiles import NUM_LEVELS, quantile_of
from pix2score.heads.spec import (
    Calibration,
    Check,
    Floats,
    HeadSpec,
    LabelColumn,
    TrainLabels,
    is_whole,
)

PREFERENCE = "preference"
NUM_STEPS = 10
"""Of the score: how a night's distribution is told."""
_LARGEST = float(np.finfo(np.float32).max)
LEVELS = np.linspace(0, 1, NUM_LEVELS)
"""Shares of the images whose rewards are below each of ``calibration["quantiles"]``."""
_NORMAL = tuple(NormalDist().inv_cdf(min(max(share, 0.005), 0.995)) for share in LEVELS.tolist())
"""Quantiles where nothing was calibrated."""


@dataclass(frozen=True, slots=True)
class PreferenceAnswer:
    """What one head says of N images, float32 [N] each.

    ``reward``: mean 0 and standard deviation 1 over the images of the comparisons it was calibrated on.
    ``score``: the share of those images whose reward is lower. ``logit``: the reward in units in which the
    sigmoid of a difference is the chance of being preferred.
    """

    reward: Floats
    score: Floats
    logit: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceHead(HeadSpec):
    """A head that orders images, and learns how from sets of images that somebody ranked."""

    kind: str = PREFERENCE
    column: str = ""
    """None: its labels are in the table of ``prepare --comparisons``."""
    sets: int | None = None
    """Sets of the train split; set by prepare."""
    pairs: int | None = None
    """Pairs in them that are no ties; set by prepare."""

    COMPARES: ClassVar[bool] = True
    LOSSES: ClassVar[tuple[str, ...]] = ("bradley_terry",)
    LABEL: ClassVar[str] = "nothing: it learns from a table of comparisons"
    CHECKS: ClassVar[Mapping[str, tuple[str, Check]]] = dict.fromkeys(
        ("sets", "pairs"), ("a whole number", is_whole)
    )

    def __post_init__(self) -> None:
        HeadSpec.check(self)
        if self.column:
            raise ConfigError(
                f"head {self.name!r}: kind {PREFERENCE} has no column; prepare --comparisons names its table"
            )

    # Labels

    @property
    def label_columns(self) -> tuple[str, ...]:
        """None."""
        return ()

    @classmethod
    def accepts(cls, column: pa.DataType) -> bool:  # noqa: ARG003
        """No column of a catalog."""
        return False

    def label_type(self, columns: Sequence[LabelColumn]) -> pa.DataType:
        """A list: see ``heads.compared``."""
        return LABEL

    def clean_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: a row of the catalog is no comparison."""
        return "NULL::FLOAT[]"

    def given_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: nothing."""
        return "NULL::VARCHAR"

    def reason_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: never asked for, as nothing is given."""
        return "NULL::VARCHAR"

    def expected_label(self, reason: str) -> str:
        """Nothing: no label is dropped."""
        return ""

    def fit(self, labels: TrainLabels) -> Self:
        """With the numbers of sets and pairs."""
        sets, pairs = 0, 0
        for batch in labels("SELECT label FROM labels"):
            found = pairs_of(padded(batch.column(0)))
            sets, pairs = sets + batch.num_rows, pairs + len(found.row)
        if not pairs:
            raise DataError(f"head {self.name!r} has no comparison in the train split")
        return replace(self, sets=sets, pairs=pairs)

    def fit_warnings(self, asked: HeadSpec) -> list[str]:
        """None."""
        return []

    def check_learnable(self) -> None:
        """Raise ``DataError`` without a pair."""
        if not self.pairs:
            raise DataError(f"head {self.name!r} has no comparison in the train split")

    def facts(self) -> dict[str, int]:
        """Sets and pairs of the train split."""
        return {"sets": self.sets or 0, "pairs": self.pairs or 0}

    # Targets

    def target_field(self) -> pa.Field:
        """``<h>_ranks``: its label."""
        return pa.field(f"{self.name}_ranks", LABEL)

    def encode(self, labels: pa.Array) -> pa.Array:
        """The labels themselves."""
        return labels

    def targets(self, column: pa.ChunkedArray) -> npt.NDArray[Any]:
        """float32 [N, TARGET_SIZE], NaN in rows that are no set."""
        return padded(column)

    def label_values(self, column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
        """Ranks, [N, MAX_IMAGES], NaN where there is no image."""
        return padded(column)[:, FIRST_RANK:].astype(np.float64)

    def difference_from(self, other: HeadSpec) -> str:
        """Another kind."""
        if other.kind == self.kind:
            return ""
        return f"{self.name} is of kind {self.kind} in the model, {other.kind} in the dataset"

    # Network and answers

    @property
    def num_outputs(self) -> int:
        """One: the reward, in no unit yet."""
        return 1

    def initial_bias(self) -> Floats:
        """Zero: only differences count."""
        return np.zeros(1, dtype=np.float32)

    @property
    def null_cost(self) -> float:
        """ln 2 per set, of rewards that are all equal."""
        return math.log(2)

    def fields(self) -> list[pa.Field]:
        """``_reward`` and ``_score``."""
        return [pa.field(f"{self.name}_{suffix}", pa.float32()) for suffix in ("reward", "score")]

    def answer(self, outputs_NA: Floats, calibration: Calibration) -> PreferenceAnswer:
        """Outputs are rewards; ``calibration`` has ``temperature``, ``mean``, ``std`` and ``quantiles``."""
        output = finite(outputs_NA)[:, 0]
        reward = (output - calibration.get("mean", 0.0)) / calibration.get("std", 1.0)
        score = quantile_of(reward, reward_quantiles(calibration))
        logit = output / calibration.get("temperature", 1.0)
        small, of_logit = (x.clip(-_LARGEST, _LARGEST).astype(np.float32) for x in (reward, logit))
        return PreferenceAnswer(small, score.astype(np.float32), of_logit)

    def columns(self, answer: PreferenceAnswer) -> dict[str, pa.Array]:
        """In the order of ``fields``."""
        return {
            f"{self.name}_reward": pa.array(answer.reward),
            f"{self.name}_score": pa.array(answer.score),
        }

    def measured(self, answer: PreferenceAnswer) -> Floats:
        """Logits, [N, 1]."""
        return answer.logit[:, None]

    def plain(self, answer: PreferenceAnswer, row: int) -> dict[str, Any]:
        """Reward and score."""
        return {"reward": float(answer.reward[row]), "score": float(answer.score[row])}

    def text(self, plain: Mapping[str, Any]) -> str:
        """Reward, and the share of images below it."""
        return (
            f"reward {plain['reward']:+.2f}, above {plain['score']:.0%} of the images compared   score "
            + (f"{plain['score']:.3f}")
        )

    # The scores table

    def bad_rows_sql(self) -> dict[str, str]:
        """The reward is a number and the score a share."""
        return {
            f"ok rows whose {self.name} is not a reward with its quantile": (
                f"NOT isfinite({self.name}_reward) OR NOT {self.name}_score BETWEEN 0 AND 1"
            )
        }

    @property
    def night_columns(self) -> list[str]:
        """All."""
        return [field.name for field in self.fields()]

    @property
    def order_column(self) -> str:
        """The reward: scores of 0 and 1 are shared."""
        return f"{self.name}_reward"

    def histogram(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        """Rows per tenth of the score."""
        score = rows.column(f"{self.name}_score").drop_null().to_numpy()
        return np.histogram(score, NUM_STEPS, (0, 1))[0].astype(np.int64)

    def histogram_labels(self) -> list[str]:
        """Tenths: of the images compared, each holds as many."""
        return [f"{step / NUM_STEPS:.1f}-{(step + 1) / NUM_STEPS:.1f}" for step in range(NUM_STEPS)]

    def caption(self, row: Mapping[str, Any]) -> str:
        """Reward and score."""
        reward, score = row[f"{self.name}_reward"], row[f"{self.name}_score"]
        return f"{self.name} {reward:+.2f}, score {score:.2f}"


def reward_quantiles(calibration: Calibration) -> Sequence[float]:
    """Rewards below which each of ``LEVELS`` lies; a normal distribution's where none are fitted."""
    return calibration.get("quantiles") or _NORMAL
