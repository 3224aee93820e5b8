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
from pix2score.score.job import MAX_PIECES, part_rows
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


def test_pieces_grow_with_the_run() -> None:
    """Their receipts are read one by one: 195,000 of them took hours."""
    few = [part_rows(rows, use_gpu=gpu) for gpu in (False, True) for rows in (0, 1000, 4_000_000)]
    assert few == [512, 512, 512, 16_384, 16_384, 16_384]
    assert [100_000_000 / part_rows(100_000_000, use_gpu=gpu) <= MAX_PIECES for gpu in (False, True)] == [
        True,
        True,
    ]
    assert part_rows(10**9, use_gpu=False) == part_rows(10**9, use_gpu=True) == 32_768
