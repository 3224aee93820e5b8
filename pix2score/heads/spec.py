"""What a model predicts: a ``HeadSpec`` per target; its subclass is its kind and says all about it.

A stage of the system (prepare, train, evaluate, score, verify, report, predict, export) asks the head and
never its kind. What needs torch stands beside it under the kind's or the loss's name (``train.step.losses``,
``serve.graph``), and so do its numbers (``metrics.kinds``) and pages (``report.kinds``).

Shapes: N images, A outputs of the network for a head.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.errors import ConfigError

Floats: TypeAlias = npt.NDArray[np.float32]
Calibration: TypeAlias = Mapping[str, Any]
"""What was fitted on the validation split, as plain values for JSON: ``{"temperature": 1.2}``."""
TrainLabels: TypeAlias = Callable[[str], Iterator[pa.RecordBatch]]
"""Runs SQL over table ``labels``, column ``label``: the head's labels in the train split, none null."""
Check: TypeAlias = Callable[[Any], bool]
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
MISSING = -1
"""Of integer targets: no label. Of floating ones that is NaN."""


class LabelColumn(NamedTuple):
    """A label column of a catalog: the name that SQL has for it, and the type that it is read as."""

    sql: str
    type: pa.DataType


class Guess(NamedTuple):
    """A label that an answer stands for, as SQL over a row of SCORES."""

    label: str
    """As the label column of a catalog would hold it."""
    type: pa.DataType
    """Of that column."""
    confidence: str
    """Probability that it is right, 0 to 1."""
    category: str
    """Text: the class by which rows are balanced."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSpec(ABC):
    """One target of the model."""

    name: str
    """Prefix of the output columns: lower-case letters, digits, underscore."""
    column: str
    """Label column of the catalog."""
    kind: str
    loss: str = "auto"
    """auto: the first of ``LOSSES``."""
    weight: float = 1.0

    LOSSES: ClassVar[tuple[str, ...]]
    """Names in ``train.step.losses``."""
    LABEL: ClassVar[str]
    """What its label column must hold, in words."""
    KEYS: ClassVar[Mapping[str, str]] = {}
    """Field -> its key in a ``[[heads]]`` table, where that is another."""
    COMPARES: ClassVar[bool] = False
    """Whether it learns from comparisons of images, which a table of their own gives, and not from columns of
    the catalog: what it says and knows of a row is then per image of the row (``heads.compared``)."""
    CHECKS: ClassVar[Mapping[str, tuple[str, Check]]] = {}
    """Key of a ``[[heads]]`` table -> what its value must be, in words and as a test; of its own keys."""

    def check(self) -> None:
        """Raise ``ConfigError`` for settings that no kind can have; subclasses add theirs."""
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"head name {self.name!r}: use lower-case letters, digits and _, starting with a letter"
            )
        if self.loss not in ("auto", *self.LOSSES):
            raise ConfigError(
                f"head {self.name!r}: loss {self.loss!r} is not known; one of "
                f"{', '.join(('auto', *self.LOSSES))}"
            )
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ConfigError(f"head {self.name!r}: weight {self.weight} must be finite and not negative")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, read back by ``kinds.head_from_dict``."""
        plain = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        return {self.KEYS.get(key, key): value for key, value in plain.items()}

    @property
    def loss_name(self) -> str:
        """The loss that ``auto`` stands for, else the one given."""
        return self.LOSSES[0] if self.loss == "auto" else self.loss

    # Labels: what prepare reads, cleans and learns from

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Columns of the catalog that make its label."""
        return (self.column,)

    @property
    def label_bounds(self) -> tuple[float, float] | None:
        """Least and greatest label where labels are numbers of a scale; None where they are none."""
        return None

    @classmethod
    @abstractmethod
    def accepts(cls, column: pa.DataType) -> bool:
        """Whether a label column of this type can hold labels; ``LABEL`` says which ones do."""

    @abstractmethod
    def label_type(self, columns: Sequence[LabelColumn]) -> pa.DataType:
        """Type of ``<h>_label`` in the plan and the dataset."""

    @abstractmethod
    def clean_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: the label that the columns give; null where they give none that the head can have."""

    @abstractmethod
    def given_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: what the catalog holds, as text, for people; null where there is nothing."""

    @abstractmethod
    def reason_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: why a label that is given is dropped, as a word."""

    @abstractmethod
    def expected_label(self, reason: str) -> str:
        """What to say after labels dropped for ``reason``: ``: labels must be numbers``."""

    @abstractmethod
    def fit(self, labels: TrainLabels) -> Self:
        """This head with what it learns from the train split.

        Raises ``DataError`` where there is nothing to learn.
        """

    @abstractmethod
    def fit_warnings(self, asked: HeadSpec) -> list[str]:
        """What to warn of after ``fit``; ``asked``: the head before it."""

    @abstractmethod
    def check_learnable(self) -> None:
        """Raise ``DataError`` if its training labels cannot teach a model anything."""

    @abstractmethod
    def facts(self) -> Any:
        """What a summary of prepare says of it: the number of its bins."""

    # Targets: labels as training reads them

    @abstractmethod
    def target_field(self) -> pa.Field:
        """Column of a dataset's shard that holds the target."""

    @abstractmethod
    def encode(self, labels: pa.Array) -> pa.Array:
        """Targets of labels, null ones included, as ``target_field`` has them."""

    @abstractmethod
    def targets(self, column: pa.ChunkedArray) -> npt.NDArray[Any]:
        """Target column as an array [N] or [N, …]: integers with ``MISSING``, or floats with NaN."""

    @abstractmethod
    def label_values(self, column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
        """Label column as numbers for metrics, [N] or [N, …]; NaN where missing."""

    def targets_of(self, label_N: npt.NDArray[np.float64]) -> npt.NDArray[Any] | None:
        """Targets [N] of ``label_values`` that noise has moved, NaN among them; None: noise has no sense."""
        return None

    def own_noise(self) -> float:
        """Standard deviation of the noise that training adds to its labels, in their unit, unless told."""
        return 0.0

    @abstractmethod
    def difference_from(self, other: HeadSpec) -> str:
        """What keeps a model of this head from a dataset of ``other``; empty where nothing does."""

    # Network

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """A: outputs of the network."""

    def initial_bias(self) -> Floats | None:
        """Bias of the outputs before training, [A]: the best constant answer; None: drawn at random."""
        return None

    @property
    @abstractmethod
    def null_cost(self) -> float:
        """What the best constant answer costs in the head's loss: the unit in which losses are told."""

    # Answers: what the outputs mean

    @abstractmethod
    def fields(self) -> list[pa.Field]:
        """Columns of the scores table, all nullable: a failed row has none of them."""

    @abstractmethod
    def answer(self, outputs_NA: Floats, calibration: Calibration) -> Any:
        """What the network's outputs mean: a record of arrays, of which the other methods know the form.

        Outputs that are not finite give finite nonsense: the caller fails those rows.
        """

    @abstractmethod
    def columns(self, answer: Any) -> dict[str, pa.Array]:
        """``answer`` as columns, in the order of ``fields``."""

    @abstractmethod
    def measured(self, answer: Any) -> Floats:
        """``answer`` as the outputs [N, A] that the empty calibration would make it of: what metrics take."""

    @abstractmethod
    def plain(self, answer: Any, row: int) -> dict[str, Any]:
        """One image's answer as plain values for JSON."""

    @abstractmethod
    def text(self, plain: Mapping[str, Any]) -> str:
        """What ``plain`` says, for a person, in less than a line."""

    def legend(self) -> dict[str, str]:
        """Names of its bins or classes by number; empty where it has none."""
        return {}

    def served_facts(self, calibration: Calibration) -> dict[str, Any]:
        """What an exported graph says beside its answers, by name."""
        return {f"{self.name}_predict": self.legend()} if self.legend() else {}

    # The scores table

    def guess_sql(self, least: float) -> Guess | None:  # noqa: ARG002
        """The label that an answer makes likely, of at least probability ``least``; None for kinds without
        classes."""
        return None

    @property
    def row_bytes(self) -> int:
        """About what a row holds in memory."""
        return 4 * (self.num_outputs + 3)

    @abstractmethod
    def bad_rows_sql(self) -> dict[str, str]:
        """What can be wrong with an ok row of table ``scores`` -> SQL that is true, or null, where it is."""

    @property
    @abstractmethod
    def night_columns(self) -> list[str]:
        """Columns that the report of a night reads."""

    @property
    @abstractmethod
    def order_column(self) -> str | None:
        """The column by which rows are highest and lowest; None where that means nothing."""

    @abstractmethod
    def histogram(self, rows: pa.Table) -> npt.NDArray[np.int64]:
        """Rows per step of what it answered: how a night's distribution is told and compared."""

    def summarised(self, histogram: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The steps of ``histogram`` that are drawn and compared: by default all."""
        return histogram

    @abstractmethod
    def histogram_labels(self) -> list[str]:
        """Names of the steps of ``summarised``, short."""

    def moved(self, now: npt.NDArray[np.int64], before: npt.NDArray[np.int64]) -> list[str]:
        """Sentences on two nights' histograms, beside the number that compares them."""
        return []

    @abstractmethod
    def caption(self, row: Mapping[str, Any]) -> str:
        """What a row of ``night_columns`` says, below a picture."""


def present(target: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which rows of a target [N] or [N, …] have a label, [N]."""
    first = target if target.ndim == 1 else target.reshape(len(target), math.prod(target.shape[1:]))[:, 0]
    return np.asarray(~np.isnan(first) if first.dtype.kind == "f" else first != MISSING)


def is_text(value: Any) -> bool:
    """For ``HeadSpec.CHECKS``."""
    return isinstance(value, str)


def is_whole(value: Any) -> bool:
    """For ``HeadSpec.CHECKS``."""
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def is_number(value: Any) -> bool:
    """For ``HeadSpec.CHECKS``."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def are_numbers(value: Any) -> bool:
    """For ``HeadSpec.CHECKS``."""
    return value is None or (isinstance(value, tuple) and all(is_number(v) for v in value))


def are_texts(value: Any) -> bool:
    """For ``HeadSpec.CHECKS``."""
    return value is None or (isinstance(value, tuple) and all(is_text(v) for v in value))


COMMON_CHECKS: Mapping[str, tuple[str, Check]] = {
    **dict.fromkeys(("name", "column", "kind", "loss"), ("a string", is_text)),
    "weight": ("a number", is_number),
}
