"""A trial without augmentation ends where it can tell, or learns no more; then the best of it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pix2score.heads.binary import BinaryHead
from pix2score.train.checkpoint import RunState
from pix2score.train.step.batch import Batch
from pix2score.train.step.fitter import Fitter
from pix2score.train.step.recipe import Augment
from pix2score.train.trial import Trial
from tests.support.torch_helpers import fitter_of, settled_model
from tests.train.step.test_bearing import rows_of

HEAD = BinaryHead(name="bright", column="bright", counts=(100, 100))
WANTED = Augment(flip=0.5, colour=0.05)
EPOCHS = 24


def beginner() -> Fitter:
    recipe: dict[str, Any] = {"augment": WANTED, "learning_rate": 2e-3, "average": 0.1, "total_steps": 100}
    return fitter_of(settled_model([HEAD]), [HEAD], tries_augment=True, **recipe)


def validation() -> Iterator[Batch]:
    yield rows_of("left", num=64, seed=91)


def nothing_to_learn() -> Iterator[Batch]:
    batch = rows_of("upper", num=64, seed=91)
    truth = torch.arange(64) % 2
    yield Batch(batch.pixels_BSSC, {"bright": truth}, {"bright": truth.double()})


def run_of(fitter: Fitter, best: int, num_epochs: int) -> RunState:
    """So many epochs, of which number ``best`` is the best: the weights of this moment."""
    history: list[Any] = [
        {"epoch": n + 1, "val_loss": 0.5 if n + 1 == best else 0.9} for n in range(num_epochs)
    ]
    weights = {name: t.clone() for name, t in fitter.result.state_dict().items()}
    return RunState(history=history, best={"value": 0.5, "entry": {"epoch": best}, "weights": weights})  # type: ignore[typeddict-item]


def is_at(fitter: Fitter, weights: dict[str, torch.Tensor]) -> bool:
    return all(
        torch.equal(t, weights[n])
        for model in (fitter.model, fitter.result)
        for n, t in model.state_dict().items()
    )


def test_it_is_due_after_an_eighth_of_the_epochs_and_once() -> None:
    fitter = beginner()
    assert [Trial(fitter, run_of(fitter, 1, n), EPOCHS).is_due() for n in (1, 2, 3, 4)] == [0, 0, 1, 1]
    run = run_of(fitter, 3, 3)
    run.augment = {"flip": 0.5}
    assert not Trial(fitter, run, EPOCHS).is_due()
    assert not Trial(fitter_of(settled_model([HEAD]), [HEAD]), run_of(fitter, 3, 3), EPOCHS).is_due()


def test_a_model_that_has_learnt_enough_goes_on_with_what_the_data_bears() -> None:
    fitter = beginner()
    for seed in range(8):
        fitter.train_step(rows_of("left", seed=seed))
    run = run_of(fitter, 3, 3)
    before = {name: t.clone() for name, t in fitter.model.state_dict().items()}
    told = Trial(fitter, run, EPOCHS).end_if_told(validation)
    assert told is not None
    assert "mirror images cost" in told
    assert "goes on from" not in told
    assert run.augment is not None
    assert (fitter.augment.flip, run.augment["flip"]) == (0.0, 0.0)
    assert all(torch.equal(t, before[n]) for n, t in fitter.model.state_dict().items())
    assert fitter.optimizer.state


def test_a_trial_that_still_becomes_better_goes_on_for_a_third_of_the_epochs() -> None:
    fitter = beginner()
    assert Trial(fitter, run_of(fitter, 7, 7), EPOCHS).end_if_told(nothing_to_learn) is None
    assert fitter.augment == Augment()
    told = Trial(fitter, run_of(fitter, 8, 8), EPOCHS).end_if_told(nothing_to_learn)
    assert told == "augmentation from now on: all, as too little is learnt to tell"
    assert fitter.augment == WANTED


def test_what_was_learnt_by_heart_is_given_up() -> None:
    fitter = beginner()
    run = run_of(fitter, 1, 3)
    assert run.best is not None
    for seed in range(4):
        fitter.train_step(rows_of("left", seed=seed))
    assert not is_at(fitter, run.best["weights"])
    told = Trial(fitter, run, EPOCHS).end_if_told(nothing_to_learn)
    assert told == "augmentation from now on: all, as too little is learnt to tell; goes on from epoch 1"
    assert is_at(fitter, run.best["weights"])
    assert not fitter.optimizer.state
    num_steps = fitter.num_steps
    fitter.train_step(rows_of("left"))
    assert (fitter.num_steps, is_at(fitter, run.best["weights"])) == (num_steps + 1, False)


@pytest.mark.parametrize(("num_more", "stalls"), [(2, False), (3, True)])
def test_epochs_of_a_trial_are_not_held_against_what_follows(num_more: int, stalls: bool) -> None:
    history: list[Any] = [{"epoch": n, "val_loss": 0.5 + 0.1 * n} for n in (1, 2, 3, 4)]
    history += [{"epoch": 5 + n, "val_loss": 0.9, "augment": {}} for n in range(num_more)]
    settings: Any = type("Settings", (), {"patience": 3, "best_by": "val_loss"})
    assert RunState(history=history, augment={}).has_stalled(settings) == stalls
    assert RunState(history=history).has_stalled(settings)
