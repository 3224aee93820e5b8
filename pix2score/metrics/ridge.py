"""A ridge regression on simple features of the pixels.

A network must beat it to have learnt more than colour and outline.

Sums only, so that batches and workers merge and nothing is kept. numpy only; float64 inside.
Shapes: B images, S side, D features, H heads, A penalties.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pix2score.heads.spec import HeadSpec, present
from pix2score.metrics.kinds import numbers_of

Floats = npt.NDArray[np.float64]
SIDE, CELLS, ANGLES, GRID, LEVELS = 64, 8, 9, 4, 8
"""Pictures are seen at SIDE px: gradient angles in CELLS x CELLS cells, mean colour in GRID x GRID, and
LEVELS of each channel."""
PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Per image, of standardised features; the one that errs least on the validation split is taken."""
PENALTY = 3.0
"""Without validation labels: the best in group-wise cross-validation on 3,345 drawings."""


def features(pixels_BSSC: npt.NDArray[np.uint8]) -> Floats:
    """[B, D]: outline by cells, colour by cells, colour in all; each group in a range of about 1."""
    small = _at_side(pixels_BSSC) / 255
    return np.concatenate([_outline(small), _mean_colour(small), _levels(small)], axis=1)


def _at_side(pixels_BSSC: npt.NDArray[np.uint8]) -> Floats:
    """float64 [B, SIDE, SIDE, 3]: means of whole blocks, as far as they fit, then the nearest pixel."""
    block = max(1, pixels_BSSC.shape[1] // SIDE)
    whole = pixels_BSSC.shape[1] // block
    cut = pixels_BSSC[:, : whole * block, : whole * block]
    means = cut.reshape(len(cut), whole, block, whole, block, 3).mean((2, 4))
    at = (np.arange(SIDE) + 0.5) * whole // SIDE
    return np.asarray(means[:, at.astype(int)][:, :, at.astype(int)])


def _cells(values: Floats, cells: int) -> Floats:
    """[B, SIDE, SIDE, N] -> means [B, cells * cells * N]."""
    step = SIDE // cells
    return np.asarray(
        values.reshape(len(values), cells, step, cells, step, -1).mean((2, 4)).reshape(len(values), -1)
    )


def _outline(small: Floats) -> Floats:
    """Histograms of the gradient's angle, weighted by its length, each cell with its square root taken."""
    grey = small.mean(3)
    down, across = np.gradient(grey, axis=(1, 2))
    length, angle = np.hypot(down, across), np.arctan2(down, across) % np.pi
    nearest = np.minimum((angle / np.pi * ANGLES).astype(int), ANGLES - 1)
    by_angle = np.where(nearest[..., None] == np.arange(ANGLES), length[..., None], 0.0)
    return np.sqrt(_cells(by_angle, CELLS))


def _mean_colour(small: Floats) -> Floats:
    return _cells(small, GRID)


def _levels(small: Floats) -> Floats:
    level = np.minimum((small * LEVELS).astype(int), LEVELS - 1)
    return np.asarray((level[..., None] == np.arange(LEVELS)).mean((1, 2)).reshape(len(small), -1))


@dataclass
class HeadSums:
    """What a ridge of one head needs of its labelled images: sums over rows (1, features) and target.

    G: the target's own numbers per image, if it has several.
    """

    gram: Floats
    moment: Floats
    num: int = 0

    @classmethod
    def zeros(cls, num_features: int, target_shape: tuple[int, ...] = ()) -> HeadSums:
        """Of no image; ``target_shape``: (G,), or () for one number."""
        size = num_features + 1
        return cls(np.zeros((size, size)), np.zeros((size, *target_shape)))

    def add(self, features_BD: Floats, target_B: Floats) -> None:
        """Add labelled images."""
        rows = np.concatenate([np.ones((len(features_BD), 1)), features_BD], axis=1)
        self.gram += rows.T @ rows
        self.moment += rows.T @ target_B
        self.num += len(rows)

    def merge(self, other: HeadSums) -> HeadSums:
        """Of both sets of images."""
        return HeadSums(self.gram + other.gram, self.moment + other.moment, self.num + other.num)

    def solve(self, penalties: Sequence[float] = PENALTIES) -> Floats:
        """[A, 1 + D] or [A, G, 1 + D]: weights for each penalty, intercept first; zeros without images."""
        shape = (len(penalties), *self.moment.shape[1:], len(self.moment))
        if not self.num:
            return np.zeros(shape)
        moment_EG = self.moment.reshape(len(self.moment), -1) / self.num
        mean = self.gram[0, 1:] / self.num
        centred = self.gram[1:, 1:] / self.num - np.outer(mean, mean)
        scale = np.sqrt(np.maximum(centred.diagonal(), 1e-12))
        values, vectors = np.linalg.eigh(centred / np.outer(scale, scale))
        turned = vectors.T @ ((moment_EG[1:] - np.outer(mean, moment_EG[0])) / scale[:, None])
        weights = np.stack(
            [(vectors @ (turned / (values.clip(0) + p)[:, None])) / scale[:, None] for p in penalties]
        )
        intercept = moment_EG[0] - mean @ weights
        found_AEG = np.concatenate([intercept[:, None], weights], axis=1)
        return np.asarray(found_AEG.transpose(0, 2, 1).reshape(shape))

    def best_penalty(self, validation: HeadSums | None) -> float:
        """Whose answers have the least squared error on ``validation``."""
        if validation is None or not validation.num:
            return PENALTY
        weights_AGE = self.solve().reshape(len(PENALTIES), -1, len(self.gram))
        wanted_GE = validation.moment.reshape(len(self.gram), -1).T
        squares_A = np.einsum("age,ef,agf->a", weights_AGE, validation.gram, weights_AGE, optimize=True)
        return PENALTIES[int(np.argmin(squares_A - 2 * (weights_AGE * wanted_GE).sum((1, 2))))]


def answers(weights_AE: Floats, features_BD: Floats) -> Floats:
    """[B, A]: what each row of weights, intercept first, predicts."""
    return np.asarray(weights_AE[:, 0] + features_BD @ weights_AE[:, 1:].T)


class Ridge:
    """One ridge per head, of images of the train split; one of validation images chooses its penalty."""

    def __init__(self, heads: Sequence[HeadSpec]) -> None:
        self.heads = heads
        self.sums: dict[str, HeadSums] = {}

    def add(self, features_BD: Floats, targets: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add a batch: head -> targets, missing ones included."""
        for head in self.heads:
            labelled = present(targets[head.name])
            wanted = numbers_of(head).ridge_target(head, targets[head.name][labelled])
            if wanted is not None and wanted.ndim == 1:
                zeros = HeadSums.zeros(features_BD.shape[1])
                self.sums.setdefault(head.name, zeros).add(features_BD[labelled], wanted)

    def merge(self, other: Ridge) -> Ridge:
        """Of both sets of images."""
        merged = Ridge(self.heads)
        for name in self.sums.keys() | other.sums.keys():
            mine, theirs = self.sums.get(name), other.sums.get(name)
            merged.sums[name] = mine.merge(theirs) if mine and theirs else (mine or theirs)  # type: ignore[assignment]
        return merged

    def solve(self) -> dict[str, Floats]:
        """Head -> weights [A, 1 + D], a row for each of ``PENALTIES``."""
        return {name: sums.solve() for name, sums in self.sums.items()}
