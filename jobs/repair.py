"""Recompute a model's BatchNorm statistics from clean training pictures."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.train.repair import repair
from pix2score.train.repair_config import RepairConfig

if __name__ == "__main__":
    main("repair", RepairConfig, repair, __doc__)
