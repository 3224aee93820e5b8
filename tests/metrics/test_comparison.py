"""The better of two models is the one that gains somewhere and loses nowhere."""

from __future__ import annotations

import pytest

from pix2score.metrics.comparison import compare, is_better
from pix2score.metrics.protocol import Answers
from tests.metrics.answers import answers_of


def test_a_better_model_is_called_better_and_its_rival_worse() -> None:
    good = answers_of(300, signal=2.0)
    bad = Answers(good.head, good.outputs[:, ::-1].copy(), good.truth, good.label, good.group)
    assert compare(good, bad).verdict == "better"
    assert compare(bad, good).verdict == "worse"
    assert compare(good, good).differences["spearman"]["interval"] == (0, 0)


@pytest.mark.parametrize(
    ("verdicts", "better"),
    [
        (["better", "no difference"], True),
        (["better", "worse"], False),
        (["no difference"], False),
        (["too few labels"], False),
    ],
)
def test_a_candidate_is_better_if_it_gains_somewhere_and_loses_nowhere(
    verdicts: list[str], better: bool
) -> None:
    assert is_better(verdicts) is better
