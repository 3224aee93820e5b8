"""Score single images with a trained model, without Ray; the numbers are those of jobs.score."""

from __future__ import annotations

from typing import Any

from pix2score.cli.main import main
from pix2score.serve.config import PredictConfig
from pix2score.serve.predict import predict


def _predict(config: PredictConfig) -> dict[str, Any]:
    return predict(config, say=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main("predict", PredictConfig, _predict, __doc__)
