"""Send what changed in the live snapshot to a table in Postgres, LanceDB or Delta."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.push.config import PushConfig
from pix2score.push.job import push

if __name__ == "__main__":
    main("push", PushConfig, push, __doc__)
