"""Show the illustrations most similar to given ones, or to pictures that are not in the table."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.neighbours.config import SimilarConfig
from pix2score.serve.similar import show_similar
from pix2score.summaries import SimilarSummary


def _similar(config: SimilarConfig) -> SimilarSummary:
    return show_similar(config, say=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main("similar", SimilarConfig, _similar, __doc__)
