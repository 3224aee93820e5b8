"""Bring labels of several sources, such as groups of raters, onto one scale by a frozen model."""

from __future__ import annotations

from pix2score.align.config import AlignConfig
from pix2score.align.job import align
from pix2score.cli.main import main

if __name__ == "__main__":
    main("align", AlignConfig, align, __doc__)
