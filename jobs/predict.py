"""``python -m jobs.predict``: images in, each head's answer out, one JSON summary line last. The work is
``pix2score.serve.predict``."""

from __future__ import annotations

from typing import Any

from pix2score.cli.main import main
from pix2score.serve.config import PredictConfig
from pix2score.serve.predict import predict


def _predict(config: PredictConfig) -> dict[str, Any]:
    return predict(config, say=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main(
        "predict",
        PredictConfig,
        _predict,
        "Score single images with a trained model, without Ray; the numbers are those of jobs.score.",
    )
