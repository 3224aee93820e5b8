"""Vega-Lite drawn as SVG that takes its colours from the page: so a report holds no script, weighs little,
and turns dark with its reader."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
INK, SOFT, ACCENT, OTHER = "currentColor", "var(--soft)", "var(--accent)", "var(--other)"
WIDTH, HEIGHT = 300, 180  # fits a phone of 390 px without shrinking the letters
_CONFIG = {
    "background": None,
    "view": {"stroke": None},
    "font": "system-ui, sans-serif",
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": SOFT,
        "tickColor": SOFT,
        "gridColor": SOFT,
        "gridOpacity": 0.35,
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "labelOverlap": True,
    },
    "legend": {"labelColor": INK, "titleColor": INK, "orient": "top", "title": None, "labelFontSize": 11},
}


def svg(
    layers: Sequence[Mapping[str, Any]],
    rows: Sequence[Row],
    width: int = WIDTH,
    height: int = HEIGHT,
    left: int = 5,
) -> str:
    """The chart of ``layers`` over ``rows``, sizes in px; ``left``: room beside names.

    A browser's letters are wider than those that are drawn with here, by a tenth or so.
    """
    import vl_convert

    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": list(rows)},
        "width": width,
        "height": height,
        "padding": {"left": left, "top": 5, "right": 5, "bottom": 5},
        "config": _CONFIG,
        "layer": list(layers),
    }
    return str(vl_convert.vegalite_to_svg(json.dumps(spec), vl_version="5.21"))


def axis(field: str, title: str, **more: Any) -> dict[str, Any]:
    """A channel of numbers."""
    return {"field": field, "type": "quantitative", "title": title, **more}
