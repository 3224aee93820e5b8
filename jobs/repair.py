"""``python -m jobs.repair``: flags in, one JSON summary line out. The work is ``pix2score.repair``."""

from __future__ import annotations

from pix2score.command import main
from pix2score.repair import RepairConfig, repair

if __name__ == "__main__":
    main("repair", RepairConfig, repair, "Make a model's BatchNorm statistics anew from clean training pictures.")
