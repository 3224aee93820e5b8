"""Build the nearest-neighbour index of the live embeddings, or bring the last one up to date."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.neighbours.config import IndexConfig
from pix2score.neighbours.index import index

if __name__ == "__main__":
    main("index", IndexConfig, index, __doc__)
