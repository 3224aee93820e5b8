"""The reference that a model must beat: a ridge regression from a few dozen simple features of the pixels to the bin.

Shapes: N images, S input size, F features, T targets.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

GRID = 8  # colours of an 8 x 8 mosaic
EDGE_CELLS, NUM_DIRECTIONS = 4, 9  # histogram of oriented gradients, as usual for HOG
NUM_FEATURES = GRID * GRID * 3 + EDGE_CELLS * EDGE_CELLS * NUM_DIRECTIONS + 6
PENALTY = 0.1  # times the number of images, on standardised features
Floats = npt.NDArray[np.float64]


def features(pixels_NSSC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """float32 [N, F] of uint8 RGB [N, S, S, 3]: mosaic colours, histograms of oriented gradients, mean and spread of each channel."""
    if not len(pixels_NSSC):
        return np.zeros((0, NUM_FEATURES), dtype=np.float32)
    image = np.asarray(pixels_NSSC / np.float32(255), dtype=np.float32)
    grey = image.mean(axis=3, dtype=np.float32)
    down, right = np.gradient(grey, axis=(1, 2))
    strength, angle = np.hypot(down, right).astype(np.float32), np.arctan2(down, right) % np.pi
    direction = np.minimum((angle / np.pi * NUM_DIRECTIONS).astype(np.int64), NUM_DIRECTIONS - 1)
    edges = np.stack(
        [_mosaic(np.where(direction == k, strength, np.float32(0)), EDGE_CELLS) for k in range(NUM_DIRECTIONS)], axis=-1
    )
    parts = [_mosaic(image, GRID), edges, image.mean(axis=(1, 2)), image.std(axis=(1, 2))]
    return np.concatenate([part.reshape(len(image), -1) for part in parts], axis=1).astype(np.float32)


def _mosaic(values: npt.NDArray[np.float32], cells: int) -> npt.NDArray[np.float32]:
    """Means over ``cells`` x ``cells`` fields of [N, S, S, ...]."""
    starts = np.arange(cells) * values.shape[1] // cells
    sizes = np.diff([*starts, values.shape[1]]).astype(np.float32)
    sums = np.add.reduceat(np.add.reduceat(values, starts, axis=1), starts, axis=2)
    area = (sizes[:, None] * sizes[None, :]).reshape(1, cells, cells, *[1] * (values.ndim - 3))
    return np.asarray(sums / area, dtype=np.float32)


@dataclass
class RidgeSums:
    """Normal equations of one target, added batch by batch; ``fit`` solves them."""

    num_rows: int = 0
    x: Floats = field(default_factory=lambda: np.zeros(NUM_FEATURES))
    y: float = 0.0
    xx: Floats = field(default_factory=lambda: np.zeros((NUM_FEATURES, NUM_FEATURES)))
    xy: Floats = field(default_factory=lambda: np.zeros(NUM_FEATURES))

    def add(self, features_NF: npt.NDArray[np.float32], target_N: npt.NDArray[np.float64]) -> None:
        """Add rows that have a target."""
        x = features_NF.astype(np.float64)
        self.num_rows += len(x)
        self.x += x.sum(axis=0)
        self.y += float(target_N.sum())
        self.xx += x.T @ x
        self.xy += x.T @ target_N

    def fit(self) -> Ridge | None:
        """The regression, None without rows."""
        if not self.num_rows:
            return None
        n, mean = self.num_rows, self.x / self.num_rows
        covariance = self.xx / n - np.outer(mean, mean)
        scale = np.sqrt(np.maximum(np.diag(covariance), 1e-8))
        against = (self.xy / n - mean * self.y / n) / scale
        weights = np.linalg.solve(covariance / np.outer(scale, scale) + PENALTY * np.eye(NUM_FEATURES), against) / scale
        return Ridge(weights, self.y / n - float(mean @ weights))


@dataclass(frozen=True, slots=True)
class Ridge:
    """A fitted regression."""

    weights: Floats
    intercept: float

    def predict(self, features_NF: npt.NDArray[np.float32]) -> Floats:
        """float64 [N]."""
        return np.asarray(features_NF.astype(np.float64) @ self.weights + self.intercept)
