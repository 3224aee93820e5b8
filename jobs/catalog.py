"""Make a catalog of the pictures in a folder or bucket."""

from __future__ import annotations

from pix2score.catalog.config import CatalogConfig
from pix2score.catalog.job import catalog
from pix2score.cli.main import main

if __name__ == "__main__":
    main("catalog", CatalogConfig, catalog, __doc__)
