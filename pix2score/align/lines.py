"""The line that brings a source's labels onto the scale of a model's answers, or of another source's labels.

Every number is a function of image weights, so that resampling groups of images gives intervals.

Shapes: N images of a source.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pix2score.metrics.formulas import Floats, pearson
from pix2score.metrics.intervals import Interval, interval, resamples

Method = Literal["moments", "regression"]
_SAME = 1e-12
"""Of the variance: below it values count as one value."""


class Line(NamedTuple):
    """``k * label + b``."""

    k: float
    b: float

    def of(self, label_N: Floats) -> Floats:
        """Labels on the line, [N]."""
        return self.k * label_N + self.b

    def after(self, first: Line) -> Line:
        """The line that goes along ``first``, then along this one."""
        return Line(self.k * first.k, self.k * first.b + self.b)

    def inverse(self) -> Line:
        """The line back."""
        return Line(1 / self.k, -self.b / self.k)


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled images: label and answer in the label's unit, [N] each, and the group of each image."""

    label: Floats
    said: Floats
    group: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)


class Fitted(NamedTuple):
    """A source's line with its 95 % intervals, and how near labels are to answers without and with it."""

    line: Line
    k_interval: Interval | None
    b_interval: Interval | None
    num_rows: int
    num_groups: int
    mse_before: float
    mse_after: float
    mse_constant: float
    """Of the best constant in place of the labels: the variance of the answers."""
    pearson: float | None
    """The same before and after, as a line that rises changes no order."""


def fit(sources: Mapping[str, Rows], method: Method, reference: str | None = None) -> dict[str, Fitted]:
    """A line for each source; that of ``reference``, where there is one, is the identity.

    With a reference, a label moves to the label of it to which the model answers alike: along the source's
    line to the answers, and back along the reference's. Raises ``ValueError`` naming a source that has no
    line: labels or answers that are all alike, or answers that fall where labels rise.
    """
    lines = {name: line(rows, np.ones(len(rows)), method) for name, rows in sources.items()}
    for name, found in lines.items():
        if found is None:
            raise ValueError(name)
    drawn = _drawn(sources, method)
    return {
        name: _fitted(rows, _onto(lines, name, reference), [_onto(d, name, reference) for d in drawn])
        for name, rows in sources.items()
    }


def line(rows: Rows, weight_N: Floats, method: Method) -> Line | None:
    """The line of weighted images; None where there is none that rises."""
    if not weight_N.sum():
        return None
    mean_x, mean_y = (np.average(v, weights=weight_N) for v in (rows.label, rows.said))
    x, y = rows.label - mean_x, rows.said - mean_y
    var_x, var_y, cov = (np.average(v, weights=weight_N) for v in (x * x, y * y, x * y))
    if var_x <= _SAME * max(1.0, mean_x**2) or var_y <= _SAME * max(1.0, mean_y**2) or cov <= 0:
        return None
    k = float(math.sqrt(var_y / var_x) if method == "moments" else cov / var_x)
    return Line(k, float(mean_y - k * mean_x))


def _drawn(sources: Mapping[str, Rows], method: Method) -> list[dict[str, Line | None]]:
    """The lines of all sources on resampled groups; a group of several sources is drawn once for all."""
    groups = np.concatenate([rows.group for rows in sources.values()])
    ends = np.cumsum([len(rows) for rows in sources.values()])[:-1]
    return [
        {
            name: line(rows, weight_N, method)
            for (name, rows), weight_N in zip(sources.items(), np.split(weights, ends), strict=True)
        }
        for weights in resamples(groups)
    ]


def _onto(lines: Mapping[str, Line | None], name: str, reference: str | None) -> Line | None:
    mine = lines[name]
    if reference is None or mine is None:
        return mine
    if name == reference:
        return Line(1.0, 0.0)
    theirs = lines[reference]
    return None if theirs is None else theirs.inverse().after(mine)


def _fitted(rows: Rows, found: Line | None, drawn: Sequence[Line | None]) -> Fitted:
    assert found is not None, "fit() refuses a source without a line"
    even = np.ones(len(rows))
    return Fitted(
        line=found,
        k_interval=interval(None if one is None else one.k for one in drawn),
        b_interval=interval(None if one is None else one.b for one in drawn),
        num_rows=len(rows),
        num_groups=len(np.unique(rows.group)),
        mse_before=_mse(rows.label, rows.said),
        mse_after=_mse(found.of(rows.label), rows.said),
        mse_constant=float(rows.said.var()),
        pearson=pearson(rows.label, rows.said)(even),
    )


def pooled(sources: Mapping[str, Rows], lines: Mapping[str, Line]) -> tuple[float, float | None]:
    """MSE and Pearson of all sources' labels together, each on its line, beside the answers."""
    labels = np.concatenate([lines[name].of(rows.label) for name, rows in sources.items()])
    said = np.concatenate([rows.said for rows in sources.values()])
    return _mse(labels, said), pearson(labels, said)(np.ones(len(said)))


def _mse(a: Floats, b: Floats) -> float:
    return float(((a - b) ** 2).mean())
