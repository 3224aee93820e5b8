"""``python -m jobs.evaluate``: flags in, one JSON summary line out. The work is ``pix2score.evaluate``."""

from __future__ import annotations

from pix2score.command import main
from pix2score.evaluate import EvaluateConfig, evaluate

if __name__ == "__main__":
    main("evaluate", EvaluateConfig, evaluate, "Measure a model on one split of a prepared dataset, beside the constant baselines.")
