"""Pages of heads with one answer: numbers beside both references, charts, and words for pictures."""

from __future__ import annotations

import numpy as np
import pytest

from pix2score.heads.binary import BinaryHead
from pix2score.heads.spec import HeadSpec
from pix2score.heads.value import ValueHead
from pix2score.metrics.findings import Findings, HeadDetails
from pix2score.metrics.kinds import accumulator, numbers_of
from pix2score.metrics.protocol import Answers
from pix2score.metrics.verdict import head_verdict
from pix2score.report.evaluation import evaluation_page
from pix2score.report.kinds import page_of

LIKED = BinaryHead(name="liked", column="liked", counts=(60, 40))
BEAUTY = ValueHead(name="beauty", column="rating", mean=3.0, std=0.5)


def page_text(head: HeadSpec, num: int = 120) -> str:
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(num, 1))
    label = 3 + 0.5 * (outputs[:, 0] + rng.normal(size=num))
    truth = (label > 3).astype(np.int64) if head is LIKED else label.astype(np.float32)
    label = truth.astype(float) if head is LIKED else label
    totals = accumulator(head)
    totals.add(outputs, truth, label)
    calibration = totals.calibration()
    said = head.measured(head.answer(outputs.astype(np.float32), calibration)).astype(float)
    answers = Answers(head, said, truth, label, np.arange(num), calibration)
    guess = np.full(num, 0.4) if head is LIKED else label + 1
    verdict = head_verdict(answers, totals, calibration, guess)
    details = HeadDetails(numbers_of(head).curves(answers, calibration), {})
    findings = Findings(
        model_version="m",
        dataset_id="d",
        split="test",
        metrics={head.name: verdict},
        details={head.name: details},
    )
    return evaluation_page(findings, [head], None).decode()


@pytest.mark.parametrize(
    ("head", "num_charts", "words"),
    [
        (LIKED, 3, ["Average precision", "Balanced accuracy at the threshold", "Yes from a probability of"]),
        (BEAUTY, 2, ["Pearson correlation", "of the constant, the variance", "times the output"]),
    ],
    ids=["binary", "value"],
)
def test_a_page_has_every_number_and_chart(head: HeadSpec, num_charts: int, words: list[str]) -> None:
    text = page_text(head)
    assert text.count("<svg") == num_charts
    for word in words:
        assert word in text
    assert text.count("are really better than the constant answer") == 1


def test_words_below_pictures_say_what_was_said_and_what_is_true() -> None:
    assert page_of(LIKED).said(LIKED, np.array([0.0])) == "said yes 50%"
    assert [page_of(LIKED).true(LIKED, target) for target in (0, 1)] == ["true no", "true yes"]
    assert page_of(BEAUTY).said(BEAUTY, np.array([1.0])) == "said 3.5"
    assert page_of(BEAUTY).true(BEAUTY, np.float32(2.25)) == "true 2.25"
