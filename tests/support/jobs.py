"""Jobs as processes of their own, to their end."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def summary_of(job: str, *flags: str, timeout_s: float = 500) -> dict[str, Any]:
    """Run ``python -m jobs.<job>`` to a good end; return its summary.

    A process of its own, as a benchmark sets torch's threads, on which the numbers of other tests depend.
    """
    done = subprocess.run(
        [sys.executable, "-m", f"jobs.{job}", *flags],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=True,
    )
    loaded: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return loaded
