"""Measure how fast a stage is on this machine, and how much memory it takes."""

from __future__ import annotations

from pix2score.benchmark.config import BenchmarkConfig
from pix2score.benchmark.job import benchmark
from pix2score.cli.main import main

if __name__ == "__main__":
    main("benchmark", BenchmarkConfig, benchmark, __doc__)
