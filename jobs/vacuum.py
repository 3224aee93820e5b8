"""Remove old snapshots and unneeded files; rewrite embedding files of mostly superseded rows."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.cluster.at_hand import at_hand
from pix2score.snapshots.config import VacuumConfig
from pix2score.snapshots.vacuum import vacuum_on

if __name__ == "__main__":
    main("vacuum", VacuumConfig, at_hand(vacuum_on), __doc__)
