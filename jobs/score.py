"""Score every illustration of a catalog and publish a new snapshot of predictions and embeddings."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score

if __name__ == "__main__":
    main("score", ScoreConfig, score, __doc__)
