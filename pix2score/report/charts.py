"""The charts of a report, as SVG that takes its colours from the page.

Vega-Lite draws them while the report is written.

So a report holds no script for them, weighs little, and turns dark with its reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pix2score.metrics.curves import Reliability
from pix2score.report.svg import ACCENT, HEIGHT, OTHER, SOFT, WIDTH, Row, axis, svg

MIN_IMAGES = 10
"""Steps of the calibration curve with fewer images are left out: they show chance."""
MOST_LABELS = 20
"""Of 11 px, slanting, side by side."""


def colours(names: Sequence[str]) -> dict[str, Any]:
    """A channel of field ``series``: up to three names, the first standing out."""
    return {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": list(names), "range": [ACCENT, OTHER, SOFT][: len(names)]},
    }


def _labels(number: int) -> dict[str, Any]:
    """So few that all stand apart are all shown; of more, those that do not overlap."""
    return {"labelOverlap": number > MOST_LABELS}


def bars(labels: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """Shares per bin, one bar per series side by side: the first series stands out."""
    rows = [
        {"bin": label, "order": i, "series": name, "share": share}
        for name, shares in series.items()
        for i, (label, share) in enumerate(zip(labels, shares, strict=True))
    ]
    encoding: dict[str, Any] = {
        "x": {
            "field": "bin",
            "type": "nominal",
            "sort": {"field": "order"},
            "title": None,
            "axis": {"labelAngle": -50, **_labels(len(labels))},
        },
        "xOffset": {"field": "series", "sort": list(series)},
        "y": axis("share", "share of images", axis={"format": "%"}),
        "color": colours(list(series)),
    }
    return svg([{"mark": {"type": "bar"}, "encoding": encoding}], rows)


def calibration(reliability: Reliability, of: str = "the predicted bin") -> str:
    """How often ``of`` is right, against how sure the model was: ideally the same."""
    after, before = "calibrated", "before the temperature"
    rows = [
        {**point, "series": name}
        for name, points in ((before, reliability["before"]), (after, reliability["after"]))
        for point in points
        if point["images"] >= MIN_IMAGES
    ]
    x, y = (
        axis("confidence", f"probability of {of}", scale={"domain": [0, 1]}),
        axis("correct", "share correct"),
    )
    diagonal = {
        "data": {"values": [{"confidence": 0, "correct": 0}, {"confidence": 1, "correct": 1}]},
        "mark": {"type": "line", "strokeDash": [4, 4], "color": SOFT},
        "encoding": {"x": x, "y": y},
    }
    points = {
        "mark": {"type": "line", "point": True},
        "encoding": {"x": x, "y": y, "color": colours([after, before])},
    }
    return svg([diagonal, points], rows)


def precision_recall(points: Sequence[Row]) -> str:
    """Precision against recall, both from 0 to 1."""
    encoding = {
        "x": axis("recall", "recall", scale={"domain": [0, 1]}),
        "y": axis("precision", "precision", scale={"domain": [0, 1]}),
    }
    return svg([{"mark": {"type": "line", "color": ACCENT}, "encoding": encoding}], points)


def named_bars(names: Sequence[str], values: Sequence[float], title: str) -> str:
    """One bar per name, lying, in this order; values from 0 to 1."""
    rows = [{"name": n, "order": i, "value": v} for i, (n, v) in enumerate(zip(names, values, strict=True))]
    encoding = {
        "y": {"field": "name", "type": "nominal", "sort": {"field": "order"}, "title": None},
        "x": axis("value", title, scale={"domain": [0, 1]}),
    }
    height = max(HEIGHT, 18 * len(rows))
    return svg([{"mark": {"type": "bar", "color": ACCENT}, "encoding": encoding}], rows, height=height)


def confusion(labels: Sequence[str], matrix: Sequence[Sequence[float | None]]) -> str:
    """Rows are true bins, columns predicted ones; the darker, the larger the row's share."""
    rows = [
        {"true": labels[i], "predicted": labels[j], "i": i, "j": j, "share": share or 0.0}
        for i, line in enumerate(matrix)
        for j, share in enumerate(line)
    ]
    encoding = {
        "x": {
            "field": "predicted",
            "type": "nominal",
            "sort": {"field": "j"},
            "title": "predicted",
            "axis": {"labelAngle": -50, **_labels(len(labels))},
        },
        "y": {
            "field": "true",
            "type": "nominal",
            "sort": {"field": "i"},
            "title": "true",
            "axis": {"titlePadding": 24, **_labels(len(labels))},
        },
        "fillOpacity": {
            "field": "share",
            "type": "quantitative",
            "scale": {"domainMin": 0, "range": [0.04, 1]},
            "legend": None,
        },
    }
    return svg([{"mark": {"type": "rect", "fill": ACCENT}, "encoding": encoding}], rows, height=WIDTH - 40)


def score_against_label(
    curve: Sequence[Row], scatter: Sequence[Row], column: str, *, is_count: bool, score: str = "score"
) -> str:
    """Single images as dots; the line is the median label of each tenth by score, the band its quartiles."""
    x, y = (
        axis("score", score, scale={"zero": False}),
        {"type": "quantitative", "title": column, "scale": {"zero": False}},
    )
    if is_count:  # a count of 0 is drawn at 1: a logarithm has no 0
        y = {
            **y,
            "title": f"{column} (logarithmic)",
            "scale": {"type": "log"},
            "axis": {"format": "~s", "tickCount": 5},
        }
        curve = [
            {name: value if name == "score" else max(1.0, value) for name, value in row.items()}
            for row in curve
        ]
        scatter = [{**row, "label": max(1.0, row["label"])} for row in scatter]
    return svg([_dots(x, y, scatter), *_quartiles(x, y)], curve)


def _dots(x: Row, y: Row, scatter: Sequence[Row]) -> dict[str, Any]:
    """Single images, at field ``label``."""
    return {
        "data": {"values": list(scatter)},
        "mark": {"type": "point", "filled": True, "size": 9, "opacity": 0.45, "color": SOFT},
        "encoding": {"x": x, "y": {**y, "field": "label"}},
    }


def _quartiles(x: Row, y: Row) -> list[dict[str, Any]]:
    """A band from ``low`` to ``high``, and a line at ``median``."""
    band = {
        "mark": {"type": "area", "color": ACCENT, "opacity": 0.18},
        "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
    }
    line = {
        "mark": {"type": "line", "point": True, "color": ACCENT},
        "encoding": {"x": x, "y": {**y, "field": "median"}},
    }
    return [band, line]


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]], x_title: str, y_title: str, *, diagonal: bool = False
) -> str:
    """A line of (x, y) per series, the first standing out; ``diagonal``: a dashed one where both are equal.

    Both axes show shares, 0 to 1.
    """
    rows = [{"x": x, "y": y, "series": name} for name, points in series.items() for x, y in points]
    share = {"scale": {"domain": [0, 1]}}
    encoding = {"x": axis("x", x_title, **share), "y": axis("y", y_title, **share)}
    drawn = {
        "mark": {"type": "line", "point": {"size": 12}},
        "encoding": {**encoding, "color": colours(list(series))},
    }
    equal = {
        "data": {"values": [{"x": 0, "y": 0}, {"x": 1, "y": 1}]},
        "mark": {"type": "line", "strokeDash": [4, 4], "color": SOFT},
        "encoding": encoding,
    }
    return svg([equal, drawn] if diagonal else [drawn], rows)


def predicted_against_label(curve: Sequence[Row], scatter: Sequence[Row], column: str) -> str:
    """Single images as dots; the line is the median label of each tenth by prediction.

    The band is its quartiles. Dashed: where both are equal.
    """
    x = axis("predicted", "predicted", scale={"zero": False})
    y: dict[str, Any] = {"type": "quantitative", "title": column, "scale": {"zero": False}}
    ends = sorted(row["predicted"] for row in scatter)
    equal = {
        "data": {"values": [{"predicted": end, "label": end} for end in (ends[0], ends[-1])]},
        "mark": {"type": "line", "strokeDash": [4, 4], "color": SOFT},
        "encoding": {"x": x, "y": {**y, "field": "label"}},
    }
    return svg([_dots(x, y, scatter), equal, *_quartiles(x, y)], curve)


def shares_along(points: Sequence[Row], field: str, title: str) -> str:
    """Share of images by a number, as an area."""
    encoding = {"x": axis(field, title), "y": axis("share", "share of images", axis={"format": "%"})}
    mark = {"type": "area", "interpolate": "step", "color": ACCENT, "opacity": 0.6}
    return svg([{"mark": mark, "encoding": encoding}], points)


def share_right(steps: Sequence[Row], x: str, title: str) -> str:
    """The share that is right (field ``correct``) over field ``x``; the dashed line is chance."""
    level = {
        "data": {"values": [{"correct": 0.5}]},
        "mark": {"type": "rule", "strokeDash": [4, 4], "color": SOFT},
        "encoding": {"y": {"field": "correct", "type": "quantitative"}},
    }
    line = {
        "mark": {"type": "line", "point": True, "color": ACCENT},
        "encoding": {
            "x": axis(x, title),
            "y": axis("correct", "share correct", scale={"zero": False}),
        },
    }
    return svg([level, line], steps)
