"""Charts of numbers with their intervals, and of how numbers go together; as ``charts`` draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pix2score.metrics.intervals import Interval
from pix2score.report.charts import colours
from pix2score.report.svg import ACCENT, HEIGHT, INK, OTHER, SOFT, WIDTH, axis, svg

SURE = {"test": "isValid(datum.low)", "value": 1}
"""Of a dot that has an interval; others are hollow."""
DASHED = {"strokeDash": [4, 4]}
ROW_HEIGHT, LEFT = 20, 20
CELL = 44
"""Side of a cell of a heat chart, px, where there is room."""


class NamedPoint(NamedTuple):
    """A number of a thing with a name."""

    name: str
    value: float
    interval: Interval | None


class CurvePoint(NamedTuple):
    """A number at a place."""

    x: float
    value: float
    interval: Interval | None


def named_points(points: Sequence[NamedPoint], whole: float | None, title: str) -> str:
    """A dot with its interval per name, in this order; ``whole`` is a dashed line."""
    rows = [{"name": p.name, "order": i, "value": p.value, **_ends(p.interval)} for i, p in enumerate(points)]
    x = axis("value", title, scale={"zero": False, "padding": 8}, axis={"tickCount": 4})
    y = {
        "field": "name",
        "type": "nominal",
        "sort": {"field": "order"},
        "title": None,
        "axis": {"labelLimit": 110, "labelOverlap": False},
    }
    layers: list[Mapping[str, Any]] = [
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "color": SOFT, "strokeWidth": 2},
            "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
        },
        {
            "mark": {"type": "point", "fill": ACCENT, "stroke": ACCENT, "size": 40, "opacity": 1},
            "encoding": {"x": x, "y": y, "fillOpacity": {"condition": SURE, "value": 0.1}},
        },
    ]
    if whole is not None:
        rule = {"mark": {"type": "rule", "color": OTHER, **DASHED}, "encoding": {"x": x}}
        layers.append({"data": {"values": [{"value": whole}]}, **rule})
    return svg(layers, rows, width=WIDTH - 90, height=max(60, ROW_HEIGHT * len(rows)), left=LEFT)


def _ends(interval: Interval | None) -> dict[str, float]:
    return {"low": interval.low, "high": interval.high} if interval else {}


def curves(
    series: Mapping[str, Sequence[CurvePoint]], plain: Mapping[str, float], title: str, *, falls: bool
) -> str:
    """A curve with intervals per name, and of each a dashed line at ``plain``; ``falls``: x goes down."""
    names = list(series)
    rows = [
        {"series": name, "x": p.x, "value": p.value, **_ends(p.interval)}
        for name, points in series.items()
        for p in points
    ]
    x = axis(
        "x",
        title,
        scale={"zero": False, "reverse": falls, "padding": 8},
        axis={"tickCount": 5, "format": "~g"},
    )
    y, color = axis("value", "", scale={"zero": False}), {**colours(names), "legend": LEGEND}
    levels = [{"series": name, "value": value} for name, value in plain.items()]
    layers: list[Mapping[str, Any]] = [
        {
            "data": {"values": levels},
            "mark": {"type": "rule", "opacity": 0.7, **DASHED},
            "encoding": {"y": y, "color": color},
        },
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "opacity": 0.5},
            "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": color},
        },
        {"mark": {"type": "line", "point": True}, "encoding": {"x": x, "y": y, "color": color}},
    ]
    return svg(layers, rows, width=WIDTH, height=HEIGHT)


LEGEND = {"orient": "top", "title": None, "columns": 1, "labelLimit": WIDTH}


def heat(names: Sequence[str], matrix: Sequence[Sequence[float | None]]) -> str:
    """A number from -1 to 1 for each two names: blue above 0, brown below, the stronger the darker."""
    rows = [
        {
            "one": names[i],
            "other": names[j],
            "i": i,
            "j": j,
            "size": abs(value or 0.0),
            "sign": "below" if value is not None and value < 0 else "above",
            "text": "-" if value is None else f"{value:.2f}",
        }
        for i, line in enumerate(matrix)
        for j, value in enumerate(line)
    ]
    cells = {
        "x": {
            "field": "other",
            "type": "nominal",
            "sort": {"field": "j"},
            "title": None,
            "axis": {"labelAngle": -50, "labelOverlap": False, "labelLimit": 90},
        },
        "y": {
            "field": "one",
            "type": "nominal",
            "sort": {"field": "i"},
            "title": None,
            "axis": {"labelOverlap": False, "labelLimit": 90},
        },
    }
    fill = {
        "fillOpacity": {
            "field": "size",
            "type": "quantitative",
            "scale": {"domain": [0, 1], "range": [0.03, 0.75]},
            "legend": None,
        },
        "fill": {
            "field": "sign",
            "type": "nominal",
            "scale": {"domain": ["above", "below"], "range": [ACCENT, OTHER]},
            "legend": None,
        },
    }
    text = {"text": {"field": "text", "type": "nominal"}}
    layers: list[Mapping[str, Any]] = [
        {"mark": {"type": "rect"}, "encoding": {**cells, **fill}},
        {"mark": {"type": "text", "fontSize": 10, "color": INK}, "encoding": {**cells, **text}},
    ]
    side = min(WIDTH - 60, CELL * len(names))
    return svg(layers, rows, width=side, height=side * 3 // 4, left=LEFT)
