"""``python -m jobs.benchmark``: flags in, one JSON summary line out. The work is ``pix2score.benchmark``."""

from __future__ import annotations

from pix2score.benchmark import BenchmarkConfig, benchmark
from pix2score.command import main

if __name__ == "__main__":
    main("benchmark", BenchmarkConfig, benchmark, "Measure how fast a stage is on this machine, and how much memory it takes.")
