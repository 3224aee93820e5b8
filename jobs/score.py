"""``python -m jobs.score``: flags in, one JSON summary line out. The work is ``pix2score.score.job``."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score

if __name__ == "__main__":
    main(
        "score",
        ScoreConfig,
        score,
        "Score every illustration of a catalog and publish a new snapshot of predictions and embeddings.",
    )
