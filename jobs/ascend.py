"""Move a picture until a head answers as wanted: what it looks for, and how little sways it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pix2score.ascend.config import AscendConfig
from pix2score.cli.main import main


def _ascend(config: AscendConfig) -> Mapping[str, Any]:
    from pix2score.ascend.job import ascend  # imports torch: --help needs none

    return ascend(config)


if __name__ == "__main__":
    main("ascend", AscendConfig, _ascend, __doc__)
