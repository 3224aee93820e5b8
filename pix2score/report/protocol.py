"""What the pages of a kind of head must be able to say.

Shapes: A outputs of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from pix2score.heads.spec import HeadSpec
from pix2score.metrics.protocol import Curves
from pix2score.metrics.verdict import HeadVerdict
from pix2score.report.page import Chart

Row: TypeAlias = tuple[str, str, str]
"""A line of a head's table: name of the number, title, and ``lower`` if less is better."""


class KindPage(ABC):
    """One kind of head in the report of an evaluation."""

    rows: ClassVar[tuple[Row, ...]]
    constant: ClassVar[str]
    """What the best constant answer is, in words."""
    galleries: ClassVar[tuple[tuple[str, str], ...]] = (
        ("Highest predicted", "highest"),
        ("Lowest predicted", "lowest"),
        ("Largest misses", "misses"),
    )
    """Title of each row of pictures and what it holds: highest, lowest, misses, or hits (least misses)."""

    @abstractmethod
    def note(self, verdict: HeadVerdict) -> str:
        """A sentence above the numbers: how answers are calibrated."""

    @abstractmethod
    def charts(self, head: HeadSpec, curves: Curves) -> list[Chart]:
        """Pictures of ``KindNumbers.curves``."""

    @abstractmethod
    def said(self, head: HeadSpec, outputs_A: Any) -> str:
        """What calibrated outputs of one image say, below its picture."""

    @abstractmethod
    def true(self, head: HeadSpec, target: Any) -> str:
        """What is true of it."""

    def examples(
        self, head: HeadSpec, outputs_NA: npt.NDArray[Any], curves: Curves
    ) -> Mapping[str, npt.NDArray[np.int64]]:
        """More galleries of the sample: title -> its rows, those to show first; outputs are calibrated."""
        return {}
