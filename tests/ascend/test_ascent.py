"""Pictures move towards their aim for every kind of head, within the bound; the network stays as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pix2score.ascend.ascent import Explained, ascended, gains, number_of, rounded, stepped
from pix2score.heads.aims import Aim, aims_of
from pix2score.heads.kinds import KINDS
from pix2score.heads.spec import HeadSpec
from pix2score.model.card import ModelCard
from pix2score.serve.graph import answers_of
from tests.support.every_head import FITTED
from tests.support.torch_helpers import (
    NARROW,
    PREPROCESS,
    assert_same_state,
    pixels,
    settled_model,
    state_of,
)

EACH_KIND = pytest.mark.parametrize("kind", KINDS)
LINE = {"slope": 1.7, "offset": 0.4, "temperature": 1.3}


@pytest.fixture(scope="module")
def model() -> Explained:
    """A random network under a head of every kind."""
    heads = tuple(FITTED.values())
    network = settled_model(heads)  # type: ignore[arg-type]
    card = ModelCard(
        backbone=NARROW,
        heads=heads,
        preprocess=PREPROCESS,
        embedding_dim=network.embedding_dim,
        temperatures={},
        weights_sha256="0" * 64,
    )
    return Explained(network.requires_grad_(False), card)


def answer_to(model: Explained, head: HeadSpec, images: np.ndarray[Any, Any]) -> Any:
    with torch.no_grad():
        return head.answer(model.outputs(torch.from_numpy(images), head).float().numpy(), {})


def aimed(model: Explained, head: HeadSpec, image: np.ndarray[Any, Any], aim: Aim) -> float:
    with torch.no_grad():
        (answer,) = model.answers(torch.from_numpy(image[None]), head)
    return float(number_of(answer, aim))


@EACH_KIND
def test_a_picture_climbs_within_its_bound(model: Explained, kind: str) -> None:
    head, (image,) = FITTED[kind], pixels(1, seed=3)
    aim = aims_of(head).up(head, answer_to(model, head, image[None]), 0)
    before = state_of(model.network)
    moved = ascended(model, head, image, aim, bound=8 / 255, num_steps=10)
    assert 7 < np.abs(moved - image).max() <= 8.001
    assert moved.min() >= 0
    assert moved.max() <= 255
    assert aimed(model, head, rounded(moved, image, 8 / 255), aim) > aimed(model, head, image, aim)
    assert_same_state(state_of(model.network), before)


@EACH_KIND
def test_a_picture_comes_nearer_to_what_is_named(model: Explained, kind: str) -> None:
    head, (image,) = FITTED[kind], pixels(1, seed=3)
    wanted = {
        "bins": "5",
        "levels": "0",
        "binary": "no",
        "value": "0.2",
        "distribution": "1",
        "classes": "bird",
        "tags": "tree",
        "preference": "-2",
    }[kind]
    aim = aims_of(head).towards(head, wanted, {})
    moved = ascended(model, head, image, aim, bound=8 / 255, num_steps=10)
    start, end = (aimed(model, head, shown, aim) for shown in (image, moved))
    if aim.at is None:
        assert (end < start) if aim.falls else (end > start)
    else:
        assert abs(end - aim.at) < abs(start - aim.at)


@EACH_KIND
def test_log_odds_are_those_of_the_answer_and_do_not_flatten(kind: str) -> None:
    head = FITTED[kind]
    drawn = torch.randn(3, head.num_outputs, generator=torch.Generator().manual_seed(0)).double()
    answer = head.answer(drawn.float().numpy(), LINE)
    aims = [aims_of(head).away(head, answer, row) for row in range(3)]
    numbers = [number_of(a, aim) for a, aim in zip(answers_of(head, drawn, LINE), aims, strict=True)]
    for gain, number, aim in zip(gains(head, drawn, LINE, aims), numbers, aims, strict=True):
        wanted = torch.logit(number) if aim.is_share else number
        assert float(gain) == pytest.approx(float(-wanted if aim.falls else wanted), rel=1e-5)
    sure = (drawn * 1000).requires_grad_()
    if aims[0].is_share:
        (slope,) = torch.autograd.grad(gains(head, sure, LINE, aims).sum(), [sure])
        assert slope.abs().amax(dim=1).min() > 0.1


@EACH_KIND
def test_steps_of_one_lead_away_and_end_at_their_reach(model: Explained, kind: str) -> None:
    head, images = FITTED[kind], pixels(8, seed=5)
    before = answer_to(model, head, images)
    aims = [aims_of(head).away(head, before, row) for row in range(8)]
    moved = [images]
    for _ in range(3):
        moved.append(stepped(model, head, moved[-1], images, aims, reach=2))
    assert [np.abs(led.astype(int) - images).max() for led in moved] == [0, 1, 2, 2]
    with torch.no_grad():
        gained = [model.gain(torch.from_numpy(led), head, aims) for led in (images, moved[-1])]
    assert (gained[1] > gained[0]).all()


def test_the_robust_ascent_is_repeatable_and_gains_under_changes_that_it_did_not_draw(
    model: Explained,
) -> None:
    head, (image,) = FITTED["bins"], pixels(1, seed=3)
    aim = Aim("score", "score")

    def climbed(seed: int) -> np.ndarray[Any, Any]:
        torch.manual_seed(seed)
        return ascended(model, head, image, aim, bound=1, num_steps=10, robust=True)

    first = climbed(1)
    assert np.array_equal(first, climbed(1))
    assert not np.array_equal(first, climbed(2))
    assert aimed(model, head, first[:, ::-1].copy(), aim) > aimed(model, head, image[:, ::-1].copy(), aim)


def test_rounding_does_not_leave_a_bound_between_two_whole_numbers() -> None:
    before = np.array([0, 100, 255], np.uint8)
    moved = np.array([2.55, 97.45, 253.2], np.float32)
    assert rounded(moved, before, 0.01).tolist() == [2, 98, 253]
    assert rounded(moved, before, 3 / 255).tolist() == [3, 97, 253]
