"""What score checks before Ray starts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pix2score.catalog.catalog import Columns
from pix2score.cli.flags import as_plain
from pix2score.cli.summary import StageTimer
from pix2score.errors import DataError
from pix2score.score.config import ScoreConfig
from pix2score.score.run import open_run
from tests.model.test_folder import save
from tests.support.builders import write_catalog


def test_columns_are_mapped_as_in_the_dataset_of_the_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, plain = str(tmp_path / "model"), str(tmp_path / "plain")
    save(model, about={"columns": as_plain(Columns(id="work", uri="path"))})
    save(plain, about={})
    catalog = write_catalog(str(tmp_path / "catalog"), {"work": [1, 2], "path": ["a", "b"]})
    with caplog.at_level(logging.INFO):
        run = open_run(ScoreConfig(catalog=catalog, model=model, out=str(tmp_path / "out")), StageTimer())
    assert "columns as in the dataset of the model: id = work, uri = path" in caplog.text
    assert as_plain(run.config)["columns"]["id"] == "work"
    assert run.catalog.columns.uri == "path"
    with pytest.raises(DataError, match=r"no column 'illust_id'.*--columns\.id NAME"):
        open_run(ScoreConfig(catalog=catalog, model=plain, out=str(tmp_path / "out")), StageTimer())
