"""Learn heads anew from today's labels and stored embeddings: no picture is read."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.refit.config import RefitConfig
from pix2score.refit.job import refit

if __name__ == "__main__":
    main("refit", RefitConfig, refit, __doc__)
