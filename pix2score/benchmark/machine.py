"""Facts about the machine that a number is worth nothing without."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from pix2score.cli.packages import versions
from pix2score.host.cores import num_cores
from pix2score.host.instructions import EIGHT_BIT, HALF, cpu_flags

PACKAGES = (
    *("pix2score", "ray", "torch", "onnxruntime", "openvino", "pillow", "pyarrow", "duckdb", "daft"),
    *("faiss-cpu", "obstore"),
)


def machine() -> dict[str, Any]:
    """Facts that a number is worth nothing without."""
    return {
        "cores": num_cores(),
        "cpu": _cpu(),
        "instructions": instructions(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        **versions(PACKAGES),
    }


def instructions() -> list[str]:
    """Those that engines of fewer bits ask for."""
    return sorted(cpu_flags().intersection((*EIGHT_BIT, *HALF)))


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
