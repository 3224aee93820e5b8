"""Draw a catalog of pictures and run prepare, train, evaluate, score and verify on it."""

from __future__ import annotations

from typing import Any

from pix2score.cli.main import main
from pix2score.demo.config import DemoConfig
from pix2score.demo.job import demo


def _demo(config: DemoConfig) -> dict[str, Any]:
    return demo(config, say=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main("demo", DemoConfig, _demo, __doc__)
