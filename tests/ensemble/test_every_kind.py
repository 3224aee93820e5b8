"""Networks with a head of every kind pool the same in ONNX Runtime as in torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pix2score.ensemble.job import member_of
from pix2score.heads.value import ValueHead
from pix2score.images.preprocess import Preprocess
from pix2score.model.folder import ModelCard, load_model, save_model
from pix2score.model.graph import export_graph
from pix2score.model.members import Member
from pix2score.model.network import MultiHeadModel, normalise, weights_of
from pix2score.model.networks import model_from_card
from pix2score.model.pooling import calibrated, pooled
from pix2score.model.predictor import Predictor, load_predictor
from tests.ensemble.heads import CALIBRATIONS, HEADS
from tests.support.torch_helpers import NARROW, pixels, seeded

MEANS = [replace(head, loss="mse") if isinstance(head, ValueHead) else head for head in HEADS]
NAMES = [head.name for head in HEADS]


def heads_of(number: int) -> list[object]:
    """The value of one member is a distribution, that of the other a number."""
    return [head for head in HEADS if not (isinstance(head, ValueHead) and head.is_expected == bool(number))]


def member(number: int) -> Member:
    card = ModelCard(
        backbone=NARROW,
        heads=tuple(heads_of(number)),  # type: ignore[arg-type]
        preprocess=OWN,
        embedding_dim=NETWORKS[number].embedding_dim,
        temperatures={},
        calibrations={head.name: dict(CALIBRATIONS[head.kind]) for head in HEADS},
        weights_sha256=str(number),
    )
    return member_of(card, number, dict.fromkeys(NAMES, (0.25, 0.75)))


NETWORKS = [seeded(MultiHeadModel, seed, heads_of(seed)).eval() for seed in (0, 1)]  # type: ignore[arg-type]
OWN = Preprocess(size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("ensemble")
    save_model(
        str(folder),
        {f"members.{i}.{n}": w for i, network in enumerate(NETWORKS) for n, w in weights_of(network).items()},
        backbone=NARROW,
        heads=tuple({head.name: head for head in MEANS}.values()),
        preprocess=Preprocess(size=32),
        embedding_dim=NETWORKS[0].embedding_dim,
        temperatures={},
        members=(member(0), member(1)),
        about={},
        graph=export_graph,
    )
    return str(folder)


def test_every_kind_says_the_same_in_both_engines(place: str) -> None:
    images, (card, weights) = pixels(5, seed=3), load_model(place)
    assert (Path(place) / "model.onnx").is_file()
    onnx = load_predictor(place, batch_size=8, device="cpu", num_threads=1)
    torchs = Predictor(card, weights, batch_size=8, device="cpu", num_threads=1, engine="torch")
    assert (onnx.engine, torchs.engine) == ("onnx", "torch")
    ours, theirs = onnx.predict(images), torchs.predict(images)
    assert ours.finite.all()
    for head in card.heads:
        said = head.measured(ours.heads[head.name])
        assert said.std(axis=0).max() > 1e-6, "answers depend on the picture"
        np.testing.assert_allclose(said, head.measured(theirs.heads[head.name]), atol=1e-3, err_msg=head.name)


@torch.no_grad()
def test_each_member_sees_the_picture_as_it_wants_it(place: str) -> None:
    images, (card, weights) = pixels(5, seed=3), load_model(place)
    found = model_from_card(card, weights)(normalise(torch.from_numpy(images), card.preprocess))[0]
    alone = [network(normalise(torch.from_numpy(images), OWN))[0] for network in NETWORKS]
    for head in card.heads:
        parts = [calibrated(head, said[head.name], CALIBRATIONS[head.kind]) for said in alone]
        torch.testing.assert_close(found[head.name], pooled(head, parts, (0.25, 0.75)), rtol=1e-3, atol=1e-4)
