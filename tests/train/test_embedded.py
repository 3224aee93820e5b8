"""A trunk that stays as it is: each picture is embedded once, and only what stands behind it learns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pix2score.errors import ConfigError
from pix2score.train.config import TrainConfig
from pix2score.train.embedded import EmbeddedRows
from pix2score.train.probing import begin_solved
from pix2score.train.recipes import default_epochs, make_recipe
from pix2score.train.step.batch import Batch
from pix2score.train.step.fitter import Fitter
from pix2score.train.step.validate import validation_loss
from tests.support.settings import worker_settings
from tests.support.torch_helpers import (
    NARROW_DIM,
    assert_same_state,
    batch,
    fitter_of,
    settled_model,
    state_of,
)


def frozen_fitter() -> Fitter:
    model = settled_model()
    model.trunk.requires_grad_(False)
    return fitter_of(model, average=0.5, learning_rate=0.05)


class Rows:
    """Ten drawn rows, in batches of four; counts how often it was read."""

    def __init__(self) -> None:
        self.num_reads = 0
        self.whole = batch(10, seed=1)

    def __call__(self, split: str) -> Iterator[Batch]:
        self.num_reads += 1
        yield from self.whole.pieces(3)


def embedded(fitter: Fitter, rows: Rows) -> EmbeddedRows:
    settings = worker_settings()
    return EmbeddedRows(fitter, settings, 4, rows)


def test_each_picture_is_read_and_embedded_once_and_shuffled_in_every_epoch() -> None:
    fitter, rows = frozen_fitter(), Rows()
    found = embedded(fitter, rows)
    epochs = [torch.cat([b.pixels_BSSC for b in found.batches("train", epoch)]) for epoch in (0, 1, 0)]
    assert rows.num_reads == 1
    assert epochs[0].shape == (8, NARROW_DIM)  # an incomplete batch is left out
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])
    in_order = torch.cat([b.pixels_BSSC for b in found.batches("val", 0)])
    assert in_order.shape == (10, NARROW_DIM)


def test_an_embedding_gives_the_metrics_of_its_picture() -> None:
    fitter, rows = frozen_fitter(), Rows()
    of_pixels = fitter.validate(rows.whole.pieces(3))
    of_embeddings = fitter.validate(embedded(fitter, rows).batches("val", 0))
    for expected, found in zip(of_pixels, of_embeddings, strict=True):
        assert found.least_nll == pytest.approx(expected.least_nll, rel=1e-5)


def test_the_trunk_and_its_statistics_stay_and_the_outputs_move() -> None:
    fitter, rows = frozen_fitter(), Rows()
    found, before = embedded(fitter, rows), state_of(fitter.model)
    losses = [fitter.train_step(b).loss for epoch in range(8) for b in found.batches("train", epoch)]
    assert losses[-1] < losses[0]
    for model in (fitter.model, fitter.result):
        after = model.state_dict()
        moved = {name for name in before if not torch.equal(after[name], before[name])}
        assert moved == {n for n in before if n.startswith("outputs.")}


def test_outputs_begin_solved_where_steps_would_have_to_find_them() -> None:
    fitter, rows = fitter_of(settled_model(), average=0.5), Rows()
    trunk = state_of(fitter.model.trunk)
    before = validation_loss(fitter.validate(rows.whole.pieces(3)))
    metrics, penalties = begin_solved(fitter, worker_settings(), embedded(fitter, rows))
    assert validation_loss(metrics) < before
    assert validation_loss(fitter.validate(rows.whole.pieces(3))) == pytest.approx(validation_loss(metrics))
    assert penalties.keys() == {"bookmark", "sanity"}
    assert_same_state(state_of(fitter.model), state_of(fitter.result))
    assert_same_state(state_of(fitter.model.trunk), trunk)


def test_statistics_that_are_kept_stay_while_the_trunk_moves() -> None:
    fitter, rows = fitter_of(settled_model(), keeps_statistics=True, learning_rate=0.05), Rows()
    before = state_of(fitter.model.trunk)
    fitter.train_step(rows.whole)
    after = fitter.model.trunk.state_dict()
    moved = {name for name in before if not torch.equal(after[name], before[name])}
    assert moved == {name for name, _ in fitter.model.trunk.named_parameters()}


def test_a_trunk_with_weights_learns_slower_and_shorter() -> None:
    def settings_of(**given: Any) -> tuple[float, float, int, bool]:
        config = TrainConfig(data="d", out="o", **given)
        recipe = make_recipe(config, num_rows=1000, images_per_step=64, total_steps=10)
        assert recipe.keeps_statistics == config.begins_solved(1000)
        num_epochs = default_epochs(config, 1000)
        return recipe.learning_rate, recipe.dropout, num_epochs, recipe.keeps_statistics

    assert settings_of() == (1e-3, 0.3, 30, False)
    assert settings_of(weights="pretrained") == (pytest.approx(2e-4), 0, 10, True)
    assert settings_of(weights="pretrained", learning_rate=1e-3, dropout=0.1) == (1e-3, 0.1, 10, True)
    assert settings_of(weights="pretrained", hidden=64) == (pytest.approx(2e-4), 0.3, 10, False)
    assert settings_of(weights="pretrained", hidden=64, freeze="trunk") == (1e-3, 0.3, 30, False)
    assert not TrainConfig(data="d", out="o", weights="pretrained").begins_solved(50_000)


def test_what_cannot_be_frozen_is_refused() -> None:
    with pytest.raises(ConfigError, match="freeze trunk: a random trunk stays random; give --weights"):
        TrainConfig(data="d", out="o", freeze="trunk")
    with pytest.raises(ConfigError, match="freeze trunk: pcgrad"):
        TrainConfig(data="d", out="o", freeze="trunk", weights="imagenet", gradient="pcgrad")
    with pytest.raises(ConfigError, match="hidden: its BatchNorm needs at least 2 images"):
        TrainConfig(data="d", out="o", hidden=8, batch_size=1)
