"""Rounds of work: what a lost part of the cluster took with it is planned again, a few times."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

logger = logging.getLogger(__name__)
MAX_ROUNDS = 5


@dataclass
class Rounds:
    """Numbers of rounds, from 1, until one leaves no image missing, or none of it was done.

    Whoever loops over them plans again in every round but the first, works, and calls ``ended``.
    """

    missing: int = 0
    """Images that the last round left undone."""
    _done: int = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(1, MAX_ROUNDS + 1):
            if number > 1:
                logger.warning(
                    "%d images were lost with a part of the cluster: they are planned again", self.missing
                )
            yield number
            if not self.missing or not self._done:
                return

    def ended(self, num_planned: int, num_done: int) -> None:
        """Tell how the round went: of ``num_planned`` images ``num_done`` are done."""
        self.missing, self._done = num_planned - num_done, num_done
