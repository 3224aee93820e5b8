"""``python -m jobs.verify``: flags in, one JSON summary line out. The work is
``pix2score.snapshots.verify``."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.verify import verify

if __name__ == "__main__":
    main(
        "verify",
        VerifyConfig,
        verify,
        "Check that the live snapshot holds what it promises; with --catalog, exactly its illustrations.",
    )
