"""The report of an evaluation has every head."""

from __future__ import annotations

from pathlib import Path

from tests.report.self_contained import assert_self_contained
from tests.support.chain import Chain


def test_the_report_of_an_evaluation_has_every_head_and_chart(chain: Chain) -> None:
    text = (Path(chain.model).parent / "evaluation" / "report.html").read_text()
    assert_self_contained(text)
    for head in ("bookmark", "view", "sanity"):
        assert f"<h2>{head}</h2>" in text
    assert text.count("<svg") == 9
    assert "Where this head looks" in text
    assert "Largest misses" in text
