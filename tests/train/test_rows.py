"""A training reads the same rows in the same order, decoded once where they fit, else every epoch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from pix2score.cluster.session import session
from pix2score.dataset.card import PreparedDataset, open_dataset
from pix2score.train.config import TrainConfig
from pix2score.train.job import worker_settings
from pix2score.train.options import find_options
from pix2score.train.rows import batch_of, training_rows
from tests.support.chain import INPUT_SIZE, Chain

pytestmark = pytest.mark.usefixtures("ray_session")


def read(dataset: PreparedDataset, **settings: Any) -> dict[str, ray.data.Dataset]:
    """Splits as a training run gets them."""
    config = TrainConfig(
        data=dataset.folder.uri, out="/nowhere", input_size=INPUT_SIZE, batch_size=4, **settings
    )
    with session() as offer:
        return training_rows(
            dataset, worker_settings(config, dataset, find_options(config, dataset), offer), offer
        )


def pixels_and_labels(
    rows: ray.data.Dataset, dataset: PreparedDataset
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    config = TrainConfig(data="/nowhere", out="/nowhere", input_size=INPUT_SIZE)
    tables = rows.iter_batches(batch_format="pyarrow", batch_size=16)
    batches = [batch_of(table, dataset.heads, config.preprocess()) for table in tables]
    name = dataset.heads[0].name
    return np.concatenate([b.pixels_BSSC.numpy() for b in batches]), np.concatenate(
        [b.labels[name].numpy() for b in batches]
    )


@pytest.fixture
def copy(chain: Chain, tmp_path: Path) -> PreparedDataset:
    """Of the chain's dataset, that a test may destroy."""
    shutil.copytree(chain.dataset, tmp_path / "dataset")
    return open_dataset(str(tmp_path / "dataset"))


def test_what_fits_is_decoded_once_for_all_epochs(chain: Chain, copy: PreparedDataset) -> None:
    kept, streamed = read(copy), read(open_dataset(chain.dataset), cache_mib=0)
    shutil.rmtree(copy.folder.full("split=train"))
    for split in ("train", "val"):
        for _ in range(2):
            mine, theirs = (pixels_and_labels(rows[split], copy) for rows in (kept, streamed))
            assert len(mine[0]) == copy.num_rows(split)
            for ours, other in zip(mine, theirs, strict=True):
                np.testing.assert_array_equal(ours, other)


def test_what_does_not_fit_is_read_in_every_epoch(copy: PreparedDataset) -> None:
    num_rows = copy.num_rows("train") + copy.num_rows("val")
    too_small = num_rows * INPUT_SIZE**2 * 3 // 2**20  # rounded down
    rows = read(copy, cache_mib=too_small)["train"]
    assert len(pixels_and_labels(rows, copy)[0]) == copy.num_rows("train")
    shutil.rmtree(copy.folder.full("split=train"))
    with pytest.raises(Exception, match="part-"):
        pixels_and_labels(rows, copy)


def test_validation_is_padded_so_that_every_number_of_workers_shares_it_evenly(copy: PreparedDataset) -> None:
    pixels, labels = pixels_and_labels(read(copy, num_workers="2..7")["val"], copy)
    assert len(pixels) == 420  # the least common multiple of 2 to 7
    num = copy.num_rows("val")
    assert (pixels[num:] == 0).all()
    assert np.isnan(labels[num:]).all()
    assert pixels[:num].any(axis=(1, 2, 3)).all()
