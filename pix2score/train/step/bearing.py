"""Which random changes of its pictures a data set bears, found out by the model that learns it.

A model that has learnt from unchanged pictures is asked about changed ones of the validation split. A
mirror image of a letter is another letter: most of what the model knew is lost on it. That of a photograph
costs next to nothing. So a change costs the share of what was learnt that it takes away, and what costs too
much is weakened, or left out.

Measured after each of the first 4 or 5 epochs of resnet18 at 48 px, on 3,345 pictures of emoji and on 3,503
Chinese characters, with the changes of the preset for small data (learnt: counted from a loss of 1):

    mirror images     emoji -0.03 to 0.03, characters 0.43 to 0.68
    shifts and sizes  emoji  0.41 to 0.57, characters 0.51 to 1.05; half as strong 0.23 to 0.29, 0.07 to 0.62
    colours           emoji  0.10 to 0.26, characters 0.49 to 0.83
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from pix2score.train.step.augment import augmented
from pix2score.train.step.batch import Batch
from pix2score.train.step.collectives import gather_metrics, num_workers, rank
from pix2score.train.step.fitter import Fitter, step_seed
from pix2score.train.step.recipe import FAMILIES, Augment
from pix2score.train.step.validate import validation_loss

MOST_COST = 0.3
"""Share of what was learnt that a change may take away."""
LEAST_LEARNT = 0.02
"""Of the constant answer's loss: before so much is learnt nothing can be said of a cost. What a model says of
blank pictures is the same for all, so their loss is that of a constant which has been calibrated too."""
STRENGTHS = (1.0, 0.5, 0.25)
"""At which changes that have a size are tried; others are or are not."""
NUM_IMAGES = 4096
"""Of the validation split, at most."""


@dataclass(frozen=True, slots=True)
class Bearing:
    """What was found."""

    augment: Augment
    """What may be done to training pictures."""
    costs: dict[str, dict[float, float]]
    """Family of changes -> strength that was tried -> share of what was learnt that it took away."""

    def __str__(self) -> str:
        return "; ".join(f"{name} {_told(costs)}" for name, costs in self.costs.items())


def _told(costs: dict[float, float]) -> str:
    tried = ", ".join(f"{c:.0%}{'' if s == 1 else f' at {s:g}'}" for s, c in costs.items())
    strength, cost = list(costs.items())[-1]
    taken = "taken" if strength == 1 else f"taken at {strength:g} of the preset's"
    return f"cost {tried} of what is learnt: {'left out' if cost > MOST_COST else taken}"


def find_bearing(fitter: Fitter, batches: Iterator[Batch], wanted: Augment) -> Bearing | None:
    """Try the ``FAMILIES`` of ``wanted`` on ``batches`` of the validation split, together with all workers.

    None where the model has not learnt enough to tell.
    """
    rows = _first_images(batches, NUM_IMAGES // num_workers())
    clean, blank = _loss(fitter, rows, Augment()), _loss(fitter, _blank(rows), Augment())
    learnt = min(blank, 1.0) - clean
    if not learnt >= LEAST_LEARNT:
        return None
    found, costs = wanted, dict[str, dict[float, float]]()
    for name, family in FAMILIES.items():
        if not any(getattr(wanted, key) for key in family):
            continue
        costs[name], scaled = {}, Augment()
        for strength in STRENGTHS if family[0] in _SIZED else (1.0,):
            scaled = _only(wanted, family, strength)
            costs[name][strength] = (_loss(fitter, rows, _always(scaled)) - clean) / learnt
            if costs[name][strength] <= MOST_COST:
                break
        else:
            scaled = Augment()
        found = replace(found, **{key: getattr(scaled, key) for key in family})
    return Bearing(found, costs)


_SIZED = ("shift", "colour")
_CHANCES = ("flip", "blur", "jpeg")


def _only(wanted: Augment, family: Sequence[str], strength: float) -> Augment:
    sizes = {key: getattr(wanted, key) * (1.0 if key in _CHANCES else strength) for key in family}
    return Augment(**sizes)


def _always(augment: Augment) -> Augment:
    """Every picture is changed."""
    return replace(augment, **{key: 1.0 for key in _CHANCES if getattr(augment, key)})


def _first_images(batches: Iterator[Batch], number: int) -> list[Batch]:
    rows, found = 0, list[Batch]()
    for batch in batches:  # to their end: all workers read equally far
        if rows < number:
            found.append(batch)
            rows += len(batch.images)
    return found


def _blank(rows: Sequence[Batch]) -> list[Batch]:
    return [batch.with_images(torch.zeros_like(batch.images)) for batch in rows]


def _loss(fitter: Fitter, rows: Sequence[Batch], augment: Augment) -> float:
    torch.manual_seed(step_seed(fitter.recipe.seed, fitter.num_steps) + rank())
    return validation_loss(gather_metrics(fitter.validate(_changed(rows, augment, fitter.device))))


def _changed(rows: Sequence[Batch], augment: Augment, device: torch.device) -> Iterator[Batch]:
    for batch in rows:
        images = augmented(batch.images.to(device), augment).round().to(torch.uint8)
        yield batch.with_images(images.cpu())
