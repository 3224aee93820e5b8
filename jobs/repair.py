"""``python -m jobs.repair``: flags in, one JSON summary line out. The work is ``pix2score.train.repair``."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.train.config import RepairConfig
from pix2score.train.repair import repair

if __name__ == "__main__":
    main(
        "repair",
        RepairConfig,
        repair,
        "Make a model's BatchNorm statistics anew from clean training pictures.",
    )
