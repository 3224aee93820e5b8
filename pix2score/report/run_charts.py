"""Charts of several runs side by side: a number of each with its interval, and how they learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pix2score.report.svg import INK, SOFT, Row, axis, svg

COLOURS = (
    *("var(--accent)", "var(--other)", "var(--good)", "var(--bad)"),
    *("#9b6ad8", "#159a9c", "#b0588f", "#8a7a1c"),
)
"""Of runs, in their order, told apart on light and dark; beyond them again from the first."""
ROW_PX = 30
"""Height of a run in a chart where they lie one below the other."""
MAX_TICKS = 8
"""Of epochs below a chart."""
LABEL_PX = 110
"""Room for a run's name at its left; a longer one is cut."""


def _run_colours(runs: Sequence[str], others: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """A run has the same colour in every chart; ``others`` are grey."""
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(runs))]
    scale = {"domain": [*runs, *others], "range": [*colours, *[SOFT] * len(others)]}
    return {"field": "run", "type": "nominal", "scale": scale, **more}


def dots_with_intervals(
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    by_seed: Sequence[Row],
    runs: Sequence[str],
    title: str,
) -> str:
    """Name -> a dot, its interval as a line, and single seeds (rows of ``run`` and ``value``) as small ticks.

    Names lie one below the other, in their order; those that are not of ``runs`` are grey.
    """
    ends = {name: intervals.get(name, (value, value)) for name, value in values.items()}
    rows = [
        {"run": name, "value": value, "low": ends[name][0], "high": ends[name][1]}
        for name, value in values.items()
    ]
    y: dict[str, Any] = {
        "field": "run",
        "type": "nominal",
        "sort": list(values),
        "title": None,
        "axis": {"labelLimit": LABEL_PX, "labelOverlap": False},
    }
    colour = _run_colours(runs, [name for name in values if name not in runs], legend=None)
    x = axis("value", title, scale={"zero": False}, axis={"tickCount": 4})
    line = {
        "mark": {"type": "rule", "strokeWidth": 2},
        "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}, "color": colour},
    }
    seeds = {
        "data": {"values": list(by_seed)},
        "mark": {"type": "tick", "thickness": 1.5, "size": 14, "color": INK},
        "encoding": {"y": y, "x": x},
    }
    dots = {
        "mark": {"type": "point", "filled": True, "size": 60},
        "encoding": {"y": y, "x": x, "color": colour},
    }
    return svg([line, seeds, dots], rows, width=210, height=ROW_PX * len(rows), left=16)


def learning_curves(points: Sequence[Row], runs: Sequence[str], title: str) -> str:
    """A line for each run and seed (rows of ``run``, ``seed``, ``epoch`` and ``value``), coloured by run."""
    last = max(point["epoch"] for point in points)
    encoding = {
        "x": axis("epoch", "epoch", axis={"values": list(range(1, last + 1, -(-last // MAX_TICKS)))}),
        "y": axis("value", title, scale={"zero": False}, axis={"titlePadding": 12}),
        "color": _run_colours(runs, legend={"columns": 2, "labelLimit": LABEL_PX}),
        "detail": {"field": "seed", "type": "nominal"},
    }
    mark = {"type": "line", "strokeWidth": 1.5, "point": {"size": 14}}
    return svg([{"mark": mark, "encoding": encoding}], points, width=270, left=16)
