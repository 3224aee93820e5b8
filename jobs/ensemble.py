"""Make one model of several with the same heads, whose answer is the mean of theirs."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.ensemble.config import EnsembleConfig
from pix2score.ensemble.job import ensemble

if __name__ == "__main__":
    main("ensemble", EnsembleConfig, ensemble, __doc__)
