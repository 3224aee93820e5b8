"""``python -m jobs.vacuum``: flags in, one JSON summary line out. The work is ``pix2score.vacuum``."""

from __future__ import annotations

from pix2score.command import main
from pix2score.vacuum import VacuumConfig, vacuum

if __name__ == "__main__":
    main(
        "vacuum",
        VacuumConfig,
        vacuum,
        "Remove old snapshots and the files that nothing needs any more; rewrite embedding files that are mostly dead.",
    )
