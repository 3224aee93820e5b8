"""Turn a catalog into a training set: mixed shards of images, bins learnt from the train split."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.prepare.config import PrepareConfig
from pix2score.prepare.job import prepare

if __name__ == "__main__":
    main("prepare", PrepareConfig, prepare, __doc__)
