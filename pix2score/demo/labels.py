"""The labels of the drawn catalog: counts and a sanity level that follow from what is drawn, with noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pix2score.demo.drawing import Traits, trait_scores

LABELS = ("bookmarks", "views", "sanity")
# Of a trait score with the log of its count. 0.82 between normal variables is a Spearman correlation of 0.8.
TRAIT_CORRELATION = 0.82


def draw_labels(traits: Sequence[Traits], rng: np.random.Generator) -> list[dict[str, int | None]]:
    """``bookmarks``, ``views`` and ``sanity`` of each work; about one label in fifty is None.

    Counts are log-normal: median 250 bookmarks (sigma of the log 1.7) and 4,500 views (1.3), never fewer
    views than bookmarks. Sanity is 0 to 8, by the share of pink. The first work has -1 bookmarks, as a faulty
    export would.
    """
    scores, (taste, other, shift) = trait_scores(traits), rng.normal(size=(3, len(traits)))
    noises = {"bookmarks": taste, "views": 0.6 * taste + 0.8 * other}
    mixed = {
        k: TRAIT_CORRELATION * scores[k] + math.sqrt(1 - TRAIT_CORRELATION**2) * noises[k] for k in scores
    }
    bookmarks = np.exp(math.log(250) + 1.7 * mixed["bookmarks"])
    views = np.maximum(bookmarks, np.exp(math.log(4500) + 1.3 * mixed["views"]))
    sanity = np.clip(np.rint(9.5 * np.array([each.skin for each in traits]) - 0.5 + 0.7 * shift), 0, 8)
    table = np.stack([bookmarks, views, sanity], axis=1).astype(np.int64)
    missing = rng.random(table.shape) < 0.02
    table[0, 0], missing[0] = -1, False
    return [
        {name: None if gone else int(value) for name, value, gone in zip(LABELS, values, blanks, strict=True)}
        for values, blanks in zip(table, missing, strict=True)
    ]
