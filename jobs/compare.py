"""Train several recipes on one dataset, with several seeds, and compare them in one table and page."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.compare.config import CompareConfig
from pix2score.compare.job import compare

if __name__ == "__main__":
    main("compare", CompareConfig, compare, __doc__)
