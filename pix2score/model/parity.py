"""How near an engine's answers are to float32's, on pictures that lie beside the model.

A host that is to answer in fewer bits shows first that it answers alike: published ResNets in 8 bits lost
five points on CPUs whose instructions overflow. Shapes: N pictures, S input size, A outputs of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from pix2score.heads.spec import Calibration, Floats, HeadSpec, present
from pix2score.metrics.kinds import main_metric, numbers_of
from pix2score.metrics.protocol import Answers

LEAST_PICTURES, MOST_PICTURES = 128, 512
"""Fewer, and a rank correlation moves by more than the bound without a cause."""
MOST_BYTES = 20_000_000
"""Of their pixels, if that is more than the least number: 133 pictures of 224 px."""
MOST_CHANGE = 0.01
"""Mean change of a probability, by head, up to which an engine answers alike."""
MOST_LOSS = 0.005
"""Of a head's main number on the same pictures."""
_PIXELS = "pixels"


def num_pictures(size: int) -> int:
    """How many pictures of ``size`` px a set has."""
    return min(MOST_PICTURES, max(LEAST_PICTURES, MOST_BYTES // (3 * size * size)))


@dataclass(frozen=True, slots=True)
class ParitySet:
    """Pictures, what float32 says of them, and what is true of them."""

    pixels: npt.NDArray[np.uint8]
    """[N, S, S, 3], as the network sees them."""
    outputs: Mapping[str, Floats]
    """Head -> [N, A], before calibration."""
    targets: Mapping[str, npt.NDArray[Any]]
    """Head -> as ``HeadSpec.targets`` gives them."""
    labels: Mapping[str, npt.NDArray[np.float64]]
    """Head -> as ``HeadSpec.label_values`` gives them."""

    def to_bytes(self) -> bytes:
        """As safetensors."""
        tables = {"outputs": self.outputs, "targets": self.targets, "labels": self.labels}
        named = {f"{kind}.{head}": array for kind, table in tables.items() for head, array in table.items()}
        return save({name: np.ascontiguousarray(a) for name, a in ({_PIXELS: self.pixels} | named).items()})


def read_parity(data: bytes) -> ParitySet:
    """What ``ParitySet.to_bytes`` made."""
    arrays = load(data)
    pixels = arrays.pop(_PIXELS)
    tables: dict[str, dict[str, Any]] = {"outputs": {}, "targets": {}, "labels": {}}
    for name, array in arrays.items():
        kind, _, head = name.partition(".")
        tables[kind][head] = array
    return ParitySet(pixels, **tables)


def change_of(
    head: HeadSpec,
    calibration: Calibration,
    said: Mapping[str, npt.NDArray[Any]],
    targets: npt.NDArray[Any],
    labels: npt.NDArray[np.float64],
) -> dict[str, Any]:
    """How far one head's answers moved, and its main number before and after.

    ``said``: outputs [N, A] before calibration by the name of who said them, float32 first.
    """
    measured = {
        name: np.asarray(head.measured(head.answer(o.astype(np.float32), calibration)), np.float64)
        for name, o in said.items()
    }
    before, after = measured.values()
    found: dict[str, Any] = {"pictures": len(before), **numbers_of(head).change(head, before, after)}
    if not head.COMPARES:  # its numbers are of several pictures at once
        for name, outputs in measured.items():
            found[name] = {main_metric(head): _main(head, outputs, targets, labels, calibration)}
    return found


def changes(
    heads: Sequence[HeadSpec],
    calibrations: Mapping[str, Calibration],
    parity: ParitySet,
    outputs: Mapping[str, Floats],
    engine: str,
) -> dict[str, dict[str, Any]]:
    """Head -> ``change_of`` from the float32 of ``parity`` to ``outputs`` of the same pictures."""
    return {
        head.name: change_of(
            head,
            calibrations[head.name],
            {"float32": parity.outputs[head.name], engine: outputs[head.name]},
            parity.targets[head.name],
            parity.labels[head.name],
        )
        for head in heads
    }


def objections(found: Mapping[str, Mapping[str, Any]], engine: str) -> list[str]:
    """Why answers with these ``changes`` are not alike; empty where they are."""
    problems = []
    for head, change in found.items():
        moved = change["mean_prob_change"]
        if not moved <= MOST_CHANGE:  # nor where it is NaN
            problems.append(f"{head}: probabilities move by {moved:.4f} on average, at most {MOST_CHANGE}")
        for metric, before in change.get("float32", {}).items():
            after = change[engine][metric]
            if before is not None and np.isfinite(before) and not before - after <= MOST_LOSS:
                problems.append(f"{head}: {metric} falls from {before:.4f} to {after:.4f}")
    return problems


def _main(
    head: HeadSpec,
    outputs_NA: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    labels: npt.NDArray[np.float64],
    calibration: Calibration,
) -> float | None:
    """The main number over the labelled rows, as an evaluation has it."""
    labelled = present(targets)
    if not labelled.any():
        return None
    groups, ones = np.arange(labelled.sum()), np.ones(labelled.sum())
    answers = Answers(head, outputs_NA[labelled], targets[labelled], labels[labelled], groups, calibration)
    return numbers_of(head).measures(answers)[main_metric(head)](ones)
