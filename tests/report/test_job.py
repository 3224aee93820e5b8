"""A night's report: one file without network that counts right and trusts no text of strangers."""

from __future__ import annotations

import html
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from pix2score.errors import DataError
from pix2score.report.config import ReportConfig
from pix2score.report.job import report
from pix2score.report.night import NUM_RANDOM
from pix2score.snapshots.tables import Layout
from tests.report.self_contained import assert_self_contained
from tests.support.builders import HEADS, LAYOUT, Key, publish_night
from tests.support.chain import Chain

KEYS: list[Key] = [(number, 0) for number in range(200)]


def test_the_second_night_is_compared_with_the_first(tmp_path: Path) -> None:
    scores = str(tmp_path / "scores")
    publish_night(scores, KEYS, run="20261121T080000-00000001")
    publish_night(scores, KEYS, failed=KEYS[:3], run="20261122T080000-00000002", parent=1)
    summary = report(ReportConfig(scores=scores, out=str(tmp_path / "night.html")))
    assert (summary["snapshot"], summary["rows"], summary["failed"]) == (2, 200, 3)
    assert summary["psi"] == {"bookmark": 0, "sanity": 0}
    text = (tmp_path / "night.html").read_text()
    assert "compared with snapshot 1" in text
    assert "bookmark: as the night before" in text
    assert "3 (1.5%)" in text


def test_nights_of_models_with_other_edges_are_compared_by_score(tmp_path: Path) -> None:
    scores = str(tmp_path / "scores")
    finer = replace(HEADS[0], edges=(5, 10, 30, 100))
    publish_night(scores, KEYS, run="20261121T080000-00000001")
    layout = replace(LAYOUT, heads=(finer, replace(HEADS[1], name="new")))
    publish_night(scores, KEYS, run="20261122T080000-00000002", parent=1, layout=layout)
    summary = report(ReportConfig(scores=scores, out=str(tmp_path / "night.html")))
    assert summary["psi"] == {"bookmark": 0, "new": None}
    assert "compared with snapshot 1" in (tmp_path / "night.html").read_text()


def test_text_of_strangers_is_escaped(tmp_path: Path) -> None:
    layout = Layout(pa.string(), HEADS, 4, "float16")
    publish_night(
        str(tmp_path / "scores"),
        [("<script>alert(1)</script>", 0), ('"><img src=x onerror=alert(1)>', 0)],
        layout=layout,
    )
    report(ReportConfig(scores=str(tmp_path / "scores"), out=str(tmp_path / "night.html")))
    text = (tmp_path / "night.html").read_text()
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_a_place_without_scores_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no scores"):
        report(ReportConfig(scores=str(tmp_path), out=str(tmp_path / "night.html")))


def test_the_report_of_a_real_night_shows_pictures_and_failures(chain: Chain, tmp_path: Path) -> None:
    summary = report(ReportConfig(scores=chain.scores, out=str(tmp_path / "night.html")))
    text = (tmp_path / "night.html").read_text()
    assert_self_contained(text)
    assert summary["rows"] == chain.scored["scored"]
    assert "What limited the run" in text
    assert "How heads go together" in text
    assert chain.scored["limiting_stage"] in html.unescape(text)
    assert text.count("data:image/jpeg;base64,") > 20
    for code in chain.scored["failed_by_code"]:
        assert f"<td>{code}</td>" in text
    assert len(text) < 3_000_000


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Debian's chromium")
def test_a_browser_finds_no_error(tmp_path: Path) -> None:
    publish_night(str(tmp_path / "scores"), KEYS, failed=KEYS[:3])
    report(ReportConfig(scores=str(tmp_path / "scores"), out=str(tmp_path / "night.html")))
    words = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--enable-logging=stderr",
        "--dump-dom",
        f"file://{tmp_path}/night.html",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert f"{NUM_RANDOM} images on this page" in done.stdout  # its script ran
    assert "CONSOLE" not in done.stderr
