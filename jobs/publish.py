"""Make an older snapshot live again under a new number, with the same files, all checked first."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.snapshots.config import PublishConfig
from pix2score.snapshots.restore import publish_snapshot

if __name__ == "__main__":
    main("publish", PublishConfig, publish_snapshot, __doc__)
