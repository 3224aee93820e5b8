"""``python -m jobs.score``: flags in, one JSON summary line out. The work is ``pix2score.score``."""

from __future__ import annotations

from pix2score.command import main
from pix2score.score import score
from pix2score.score_config import ScoreConfig

if __name__ == "__main__":
    main(
        "score",
        ScoreConfig,
        score,
        "Score every illustration of a catalog and publish a new snapshot of predictions and embeddings.",
    )
