"""Check that the live snapshot holds what it promises; with --catalog, exactly its illustrations."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.cluster.at_hand import at_hand
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.verify import verify_on

if __name__ == "__main__":
    main("verify", VerifyConfig, at_hand(verify_on), __doc__)
