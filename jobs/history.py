"""List the snapshots of a scores folder: when, which model, rows, failures, drift, notes."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.snapshots.config import HistoryConfig
from pix2score.snapshots.history import show_history
from pix2score.summaries import HistorySummary


def _history(config: HistoryConfig) -> HistorySummary:
    return show_history(config, say=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main("history", HistoryConfig, _history, __doc__)
