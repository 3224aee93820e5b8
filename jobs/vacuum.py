"""``python -m jobs.vacuum``: flags in, one JSON summary line out. The work is
``pix2score.snapshots.vacuum``."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.snapshots.config import VacuumConfig
from pix2score.snapshots.vacuum import vacuum

if __name__ == "__main__":
    main(
        "vacuum",
        VacuumConfig,
        vacuum,
        "Remove old snapshots and the files that nothing needs any more; rewrite embedding files that are "
        "mostly dead.",
    )
