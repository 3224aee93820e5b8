"""Answer pictures over HTTP, on Ray Serve: predictions, neighbours, and a page to try it."""

from __future__ import annotations

import sys

from pix2score.cli.flags import resolve
from pix2score.cli.main import main
from pix2score.service.config import ServeConfig
from pix2score.service.job import serve_until_told
from pix2score.summaries import ServeSummary


def _serve(config: ServeConfig) -> ServeSummary:
    return serve_until_told(config, again=lambda: resolve(ServeConfig, sys.argv[1:]))


if __name__ == "__main__":
    main("serve", ServeConfig, _serve, __doc__)
