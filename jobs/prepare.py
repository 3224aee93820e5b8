"""``python -m jobs.prepare``: flags in, one JSON summary line out. The work is ``pix2score.prepare.job``."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.prepare.config import PrepareConfig
from pix2score.prepare.job import prepare

if __name__ == "__main__":
    main(
        "prepare",
        PrepareConfig,
        prepare,
        "Turn a catalog of illustrations into a training set: mixed Parquet shards, bins learnt from the "
        "train split.",
    )
