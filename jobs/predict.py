"""``python -m jobs.predict``: images in, each head's answer out, one JSON summary line last. The work is ``pix2score.predict``."""

from __future__ import annotations

from typing import Any

from pix2score.command import main
from pix2score.predict import PredictConfig, predict


def _predict(config: PredictConfig) -> dict[str, Any]:
    return predict(config, say=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main(
        "predict",
        PredictConfig,
        _predict,
        "Score single images with a trained model, without Ray; the numbers are those of jobs.score.",
    )
