"""``python -m jobs.evaluate``: flags in, one JSON summary line out. The work is
``pix2score.evaluate.job``."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.evaluate.config import EvaluateConfig
from pix2score.evaluate.job import evaluate

if __name__ == "__main__":
    main(
        "evaluate",
        EvaluateConfig,
        evaluate,
        "Measure a model on one split of a prepared dataset, beside the constant baselines.",
    )
