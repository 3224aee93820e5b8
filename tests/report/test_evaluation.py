"""The report of an evaluation has every head."""

from __future__ import annotations

from pathlib import Path

import pytest

from pix2score.evaluate.config import EvaluateConfig
from pix2score.evaluate.job import evaluate
from tests.report.self_contained import assert_self_contained
from tests.support.chain import Chain


@pytest.mark.slow
def test_the_report_of_an_evaluation_has_every_head_and_chart(chain: Chain, tmp_path: Path) -> None:
    evaluate(EvaluateConfig(model=chain.model, data=chain.dataset, out=str(tmp_path)))
    text = (tmp_path / "report.html").read_text()
    assert_self_contained(text)
    for head in ("bookmark", "view", "sanity"):
        assert f"<h2>{head}</h2>" in text
    assert text.count("<svg") == 11  # three of each head, and how scores and labels go together
    assert "How heads go together" in text
    assert "Where this head looks" in text
    assert "Largest misses" in text
