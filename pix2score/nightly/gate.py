"""The gate before a night goes live: how far the answers of the whole table moved from those that are live.

A model whose head was permuted, and a preprocessing that broke, give rows that are all valid; what gives them
away is their distribution (S10).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pix2score.errors import DataError, LimitError
from pix2score.heads.spec import HeadSpec
from pix2score.host.executor import Executor
from pix2score.snapshots.drift import MIN_ROWS, HeadDrift, Histogram, answer_histograms, comparable
from pix2score.snapshots.snapshot import Snapshot
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)
NUM_SHOWN = 10
"""Steps of a distribution that the refusal names: those that moved most."""


@dataclass(slots=True)
class DriftGate:
    """Refuses a night that moved any head by more than ``max_drift``, as PSI of the whole table."""

    max_drift: float
    show: Callable[[Snapshot, str], str] = field(default=lambda _snapshot, _why: "")
    """Given what would have been published and why it is not, makes it visible; returns where, as words."""
    drift: dict[str, float] = field(default_factory=dict)
    """Head -> PSI, of the heads that were compared; filled by ``check``."""

    def check(self, folder: Folder, draft: Snapshot, live: Snapshot, executor: Executor) -> None:
        """Compare ``draft``, whose files are all in storage, with the live snapshot.

        Raises ``LimitError`` naming the head that moved most, if it moved too far.
        """
        moved = head_drifts(folder, draft, live, executor)
        self.drift = {drift.head.name: drift.psi for drift in moved}
        if moved:
            told = ", ".join(f"{name} {value:.3f}" for name, value in self.drift.items())
            logger.info("drift since snapshot %d (PSI of the whole table): %s", live.number, told)
        if self._is_filled_up(draft, live):
            logger.info("snapshot %d had pending rows: what moved as they came is not held", live.number)
        elif any(drift.psi > self.max_drift for drift in moved):
            why = refusal(moved, self.max_drift, live.number)
            raise LimitError(
                f"{why}{self.show(draft, why)}; if it is meant, raise it: the next run publishes "
                "what is staged"
            )

    @staticmethod
    def _is_filled_up(draft: Snapshot, live: Snapshot) -> bool:
        """Whether the same model goes on with a table that was not whole: other rows, and no other answers.

        Those that came first may have been chosen, such as by ``--first`` before ``--until``.
        """
        is_same_model = draft.manifest["model_version"] == live.manifest["model_version"]
        return is_same_model and live.manifest["counts"].get("pending", 0) > 0


def head_drifts(folder: Folder, draft: Snapshot, live: Snapshot, executor: Executor) -> list[HeadDrift]:
    """Each head that both tables have, in both; none where they have too few rows to mean anything."""
    heads = comparable(draft.layout.heads, live.layout.heads)
    fewest = min(snapshot.manifest["counts"]["ok"] for snapshot in (draft, live))
    if not heads or fewest < MIN_ROWS:
        what = "no head in common" if not heads else f"only {fewest} answers to compare, of {MIN_ROWS} needed"
        logger.info("drift since snapshot %d is not checked: %s", live.number, what)
        return []
    try:
        now, before = _histograms(folder, [draft, live], heads, executor)
    except (DataError, FileNotFoundError) as exc:  # under --full, which is how damage is mended
        logger.warning("drift since snapshot %d is not checked, as it cannot be read: %s", live.number, exc)
        return []
    return [
        HeadDrift(head, head.summarised(now[head.name]), head.summarised(before[head.name])) for head in heads
    ]


def _histograms(
    folder: Folder, snapshots: Sequence[Snapshot], heads: Sequence[HeadSpec], executor: Executor
) -> list[dict[str, Histogram]]:
    """Of each snapshot; every file is read once, though both may name it."""
    files = [dict.fromkeys(file.path for file in snapshot.files_of("scores")) for snapshot in snapshots]
    paths = list(dict.fromkeys(path for several in files for path in several))
    totals = [{head.name: np.zeros(1, np.int64) for head in heads} for _ in snapshots]
    calls = [(folder, [path], heads) for path in paths]
    for path, found in zip(paths, executor.each(answer_histograms, calls), strict=True):
        for several, total in zip(files, totals, strict=True):
            if path in several:
                for name, counts in found.items():
                    total[name] = total[name] + counts
    return totals


def refusal(moved: Sequence[HeadDrift], max_drift: float, number: int) -> str:
    """Why a night is not published, in one line: the head that moved most, and where its answers went."""
    worst = max(moved, key=lambda drift: drift.psi)
    others = [m for m in moved if m is not worst and m.psi > max_drift]
    too = "".join(f", and {m.head.name} by {m.psi:.3f}" for m in others)
    return (
        f"head {worst.head.name} moved by PSI {worst.psi:.3f} since snapshot {number}{too}, over --max-drift "
        f"{max_drift:g}: nothing was published, staged work is kept; share of answers before and now: "
        f"{_shares(worst)}"
    )


def _shares(drift: HeadDrift) -> str:
    """``10-30 12 % -> 3 %`` of the steps whose shares moved most, in their order."""
    before, now = (100 * counts / max(1, counts.sum()) for counts in (drift.before, drift.now))
    labels = drift.head.histogram_labels()
    shown = sorted(np.argsort(-np.abs(now - before), kind="stable")[:NUM_SHOWN])
    told = ", ".join(f"{labels[i]} {before[i]:.0f} % -> {now[i]:.0f} %" for i in shown)
    left = len(labels) - len(shown)
    return f"{told} and {left} steps more" if left else told
