"""Entry points: flags in, one JSON summary line out. ``python -m jobs.score`` in a checkout and for ``ray job
submit``; installed, as ``pix2score.jobs``, ``pix2score score``."""

from __future__ import annotations

import sys

from pix2score.cli.packages import missing

# A cluster's image may lack one of them; said here in one line, before an import fails with a traceback.
NEEDED = (
    "ray",
    "torch",
    "torchvision",
    "timm",
    "pyarrow",
    "duckdb",
    "s3fs",
    "PIL",
    "numpy",
    "safetensors",
    "onnx",
    "obstore",
    "onnxruntime",
    "tensorboardX",
    "aiohttp",
    "threadpoolctl",
)


if absent := missing(NEEDED):
    print(
        f"pix2score needs {', '.join(absent)}, which {sys.executable} lacks: install the project there",
        file=sys.stderr,
    )
    sys.exit(1)

from pix2score.host.process import (  # noqa: E402 - once it is known that everything is there
    settle,
    tell_of_an_interrupt_in_a_line,
)

settle()
if sys.argv[:1] == ["-m"]:  # so it is while ``python -m`` imports the package of what it will run
    tell_of_an_interrupt_in_a_line()
