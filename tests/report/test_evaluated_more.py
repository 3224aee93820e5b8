"""Sections of an evaluation's page about all heads: altered images, and how heads go together."""

from __future__ import annotations

import re

import numpy as np

from pix2score.evaluate.texts import correlations_text, perturbed_text
from pix2score.heads.binary import BinaryHead
from pix2score.heads.value import ValueHead
from pix2score.metrics.correlation import correlations
from pix2score.metrics.perturbed import Copy, Perturbed, head_perturbed
from pix2score.metrics.protocol import Answers
from pix2score.report.evaluated_more import correlation_section, perturbed_section
from pix2score.report.page import page

LIKED = BinaryHead(name="liked", column="liked", counts=(60, 40))
BEAUTY = ValueHead(name="beauty", column="rating", mean=3.0, std=0.5)
HEADS = (LIKED, BEAUTY)
NUM = 90


def perturbed() -> Perturbed:
    """Two heads under JPEG and blur; the second has no label."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, NUM)
    clean = (2 * truth + rng.normal(size=NUM))[:, None]

    def copy(head: BinaryHead | ValueHead, strength: float) -> Copy:
        outputs = clean + strength * np.random.default_rng(1).normal(size=(NUM, 1))
        n = NUM if head is LIKED else 0
        return Copy(outputs, Answers(head, outputs[:n], truth[:n], truth[:n].astype(float), np.arange(n)))

    found = {}
    for head in HEADS:
        ways = {"jpeg": {90.0: copy(head, 0.1), 30.0: copy(head, 5.0)}, "blur": {2.0: copy(head, 0.5)}}
        found[head.name] = head_perturbed(copy(head, 0.0), ways)
    return Perturbed(num_rows=NUM, heads=found)


def test_the_page_and_the_terminal_show_every_strength_of_heads_that_have_labels() -> None:
    found = perturbed()
    section = perturbed_section(found, HEADS)
    (table,) = section.tables
    assert [row[0] for row in table.rows] == ["as they are", "jpeg 90", "jpeg 30", "blur 2"]
    assert list(table.header[:4]) == ["liked", "auc", "difference", "mean |Δ probability|"]
    assert {"AP", "accuracy"} <= set(table.header)
    assert re.fullmatch(r"-0\.\d{3} \[-0\.\d{3},\xa0-?0\.\d{3}\]", table.rows[2][2])
    assert len(section.charts) == 2
    text = page("t", [], {}, [section], "").decode()
    assert 'data-name="mean |Δ probability|"' in text
    assert "quality of JPEG" in text
    lines = perturbed_text([LIKED], found).splitlines()
    assert [line.split("  ")[0] for line in lines] == ["liked", "as they are", "jpeg 90", "jpeg 30", "blur 2"]


def test_scores_and_labels_are_two_heat_charts() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=100)
    said = {"liked": one, "beauty": -one, "votes": rng.normal(size=100)}
    true = {"liked": np.where(np.arange(100) < 60, one, np.nan), "beauty": one}
    found = correlations(said, true)
    assert found is not None
    section = correlation_section(found)
    scores, labels = section.charts
    assert scores.caption == "Scores, of 100 images."
    assert labels.caption == "Labels, where images have both: 60."
    assert scores.svg.count(">-1.00<") == 2
    assert ">votes<" in scores.svg
    assert labels.svg.count(">1.00<") == 4
    assert correlations_text(found).splitlines()[0].split() == ["liked", "beauty", "votes"]
