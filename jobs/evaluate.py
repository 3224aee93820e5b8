"""Measure a model on one split of a prepared dataset, beside the constant baselines."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.evaluate.config import EvaluateConfig
from pix2score.evaluate.job import evaluate

if __name__ == "__main__":
    main("evaluate", EvaluateConfig, evaluate, __doc__)
