"""The types of what jobs return hold what they do return: every key, of its type."""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, Union, get_args, get_origin, get_type_hints

import pytest

import pix2score
from pix2score import summaries
from pix2score.snapshots.config import VacuumConfig, VerifyConfig
from tests.support.chain import Chain


def mismatches(kind: type, summary: Mapping[str, Any]) -> list[str]:
    """Keys that lack, that are not declared, and whose value is of another type."""
    hints = get_type_hints(kind, include_extras=True)
    needed = {name for name, hint in hints.items() if get_origin(hint) is not NotRequired}
    wrong = [f"{name}: absent" for name in sorted(needed - summary.keys())]
    wrong += [f"{name}: not declared" for name in sorted(summary.keys() - hints.keys())]
    declared = get_type_hints(kind)
    return wrong + [
        f"{name}: {value!r:.60} is no {declared[name]}"
        for name, value in summary.items()
        if name in declared and not fits(value, declared[name])
    ]


def fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items()
        )
    if origin is list:
        return isinstance(value, list) and all(fits(item, inner[0]) for item in value)
    return isinstance(value, (int, float) if hint is float else hint)


@pytest.mark.parametrize(
    ("kind", "summary", "said"),
    [
        (summaries.VerifySummary, {}, "rows: absent"),
        (summaries.VerifySummary, {"rowz": 1}, "rowz: not declared"),
        (summaries.VerifySummary, {"rows": "1"}, "rows: '1' is no <class 'int'>"),
        (summaries.PrepareSummary, {"rows": {"train": "1"}}, "rows: {'train': '1'} is no dict[str, int]"),
        (summaries.ScoreSummary, {"snapshot": 1.5}, "snapshot: 1.5 is no int | None"),
    ],
)
def test_a_summary_of_another_form_is_seen(kind: type, summary: dict[str, Any], said: str) -> None:
    assert said in mismatches(kind, summary)


def test_each_job_returns_what_its_type_says(chain: Chain, tmp_path: Path) -> None:
    again = pix2score.ScoreConfig(catalog=chain.catalog, model=chain.model, out=chain.scores, dry_run=True)
    verified = pix2score.verify(VerifyConfig(scores=chain.scores, catalog=chain.catalog))
    found = [
        *mismatches(summaries.PrepareSummary, chain.prepared),
        *mismatches(summaries.TrainSummary, chain.trained),
        *mismatches(summaries.ScoreSummary, chain.scored),
        *mismatches(summaries.ScoreSummary, pix2score.score(again)),
        *mismatches(summaries.VerifySummary, verified),
        *mismatches(
            summaries.VacuumSummary, pix2score.vacuum(VacuumConfig(scores=chain.scores, dry_run=True))
        ),
        *mismatches(
            summaries.ReportSummary,
            pix2score.report(pix2score.ReportConfig(scores=chain.scores, out=str(tmp_path / "night.html"))),
        ),
    ]
    assert found == []


def test_an_evaluation_returns_what_its_type_says(chain: Chain, tmp_path: Path) -> None:
    evaluated = pix2score.evaluate(
        pix2score.EvaluateConfig(
            model=chain.model,
            data=chain.dataset,
            out=str(tmp_path / "evaluation"),
            compare=chain.model,
            adversarial=0,
            ridge_rows=0,
        )
    )
    assert mismatches(summaries.EvaluateSummary, evaluated) == []
