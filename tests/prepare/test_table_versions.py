"""A dataset of a table with a log is of one version: another one is another plan, though no file differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.several import Catalogs
from pix2score.catalog.view import TableVersion
from pix2score.prepare.config import PrepareConfig
from pix2score.prepare.work import plan_id
from tests.support.builders import write_catalog


def test_what_was_staged_for_another_version_is_not_resumed(tmp_path: Path) -> None:
    place = write_catalog(str(tmp_path), {"illust_id": [1], "uri": ["a"]})
    config, catalog = PrepareConfig(catalog=place, out=f"{place}/out"), open_catalog(place, Columns())

    def plan_of(version: int | None) -> str:
        table = None if version is None else TableVersion({"format": "delta", "version": version}, ())
        return plan_id(config, Catalogs.of(replace(catalog, table=table)), None, None)

    assert len({plan_of(version) for version in (None, 1, 2)}) == 3
    assert plan_of(2) == plan_of(2)
