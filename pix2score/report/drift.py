"""How far each head's answers moved since the night before, in a number and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pix2score.report.night import NightStats
from pix2score.report.page import Line
from pix2score.snapshots.drift import MIN_ROWS, PSI_DRIFTED, PSI_MOVED, psi


class Drift(NamedTuple):
    """PSI of a head's bins against the night before; None where there is nothing to compare."""

    whole: float | None
    """Of the whole table."""
    fresh: float | None
    """Of what was scored this night."""


def drifts(night: NightStats, before: NightStats | None) -> dict[str, Drift]:
    """Head -> how far its answers moved since the night before."""
    found: dict[str, Drift] = {}
    for head in night.heads:
        now, fresh = night.bins.get(head.name), night.fresh.get(head.name)
        then = before.bins.get(head.name) if before else None
        if now is None or fresh is None or then is None:
            found[head.name] = Drift(None, None)
        else:
            of_now, of_night, of_then = (head.summarised(counts) for counts in (now, fresh, then))
            of_fresh = round(psi(of_night, of_then), 4) if fresh.sum() >= MIN_ROWS else None
            found[head.name] = Drift(round(psi(of_now, of_then), 4), of_fresh)
    return found


def drift_sentence(what: str, value: float) -> Line:
    """What a PSI means, in words."""
    if value < PSI_MOVED:
        return Line(f"{what}: as the night before (PSI {value:.3f}).", "good")
    if value < PSI_DRIFTED:
        return Line(f"{what}: moved a little since the night before (PSI {value:.3f}). Worth a look.")
    text = (
        f"{what}: drifted (PSI {value:.3f}): other images, another model, or something broke. Look before "
        "you use these scores."
    )
    return Line(text, "bad")


def drift_lines(night: NightStats, drift: Mapping[str, Drift]) -> list[Line]:
    """Of the whole table; and of what was scored this night, where that says something else."""
    lines = []
    for name, (whole, fresh) in drift.items():
        if whole is not None:
            lines.append(drift_sentence(name, whole))
        if fresh is not None and fresh >= PSI_MOVED and fresh != whole:
            lines.append(
                drift_sentence(f"{name}, the {night.fresh[name].sum():,} images scored this night", fresh)
            )
    return lines
