"""Heads by name: ``pixiv``."""

from __future__ import annotations

from pix2score.errors import ConfigError
from pix2score.heads.ordered import OrderedHead

PRESETS: dict[str, tuple[OrderedHead, ...]] = {
    # Edges as published with the reference system (Pix2Score, 2023).
    "pixiv": (
        OrderedHead(
            name="bookmark",
            column="bookmarks",
            edges=(10, 30, 50, 70, 100, 130, 170, 220, 300, 400, 550, 800, 1300, 2700),
        ),
        OrderedHead(
            name="view",
            column="views",
            edges=(500, 700, 1000, 1500, 2000, 2500, 3000, 4000, 5000, 6500, 8500, 12000, 19000, 35000),
        ),
        OrderedHead(name="sanity", column="sanity", kind="levels", edges=(2, 4, 6, 7)),
    ),
}


def preset(name: str) -> tuple[OrderedHead, ...]:
    """The heads of a named preset. Raises ``ConfigError`` naming the known ones."""
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is not known; one of {', '.join(PRESETS)}")
    return PRESETS[name]
