"""Find groups of near-identical pictures among the live embeddings."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.neighbours.config import DuplicatesConfig
from pix2score.neighbours.duplicates import duplicates

if __name__ == "__main__":
    main("duplicates", DuplicatesConfig, duplicates, __doc__)
