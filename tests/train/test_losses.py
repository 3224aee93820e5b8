"""A loss asked for at training is the one that is used, and the one that the model says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from pix2score.dataset.card import open_dataset
from pix2score.model.card import load_card
from pix2score.train.job import TrainConfig, train
from tests.support.chain import TRAINING, Chain

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.mark.slow
def test_the_model_names_the_loss_that_it_learnt_by(chain: Chain, tmp_path: Path) -> None:
    prepared = {head.name: head.loss for head in open_dataset(chain.dataset).heads}
    assert set(prepared.values()) == {"auto"}
    settings = {**TRAINING, "epochs": 1, "max_steps": 1}
    train(
        TrainConfig(
            data=chain.dataset,
            out=str(tmp_path),
            num_workers=0,
            bins_loss="squared_emd",
            levels_loss="cross_entropy",
            **settings,
        )
    )
    heads = load_card(str(tmp_path)).heads
    assert {head.name: head.loss for head in heads} == {
        head.name: {"bins": "squared_emd", "levels": "cross_entropy"}[head.kind] for head in heads
    }
