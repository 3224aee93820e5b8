"""Train a model on a prepared dataset. The same command again resumes or, when done, does nothing."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.train.job import TrainConfig, train

if __name__ == "__main__":
    main("train", TrainConfig, train, __doc__)
