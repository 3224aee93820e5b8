"""A night's report: one file without network that counts right, tells drift, and trusts no text of
strangers."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pix2score.errors import ConfigError, DataError
from pix2score.heads.spec import HeadSpec
from pix2score.report import night as module
from pix2score.report import page as page_module
from pix2score.report.config import ReportConfig
from pix2score.report.job import PSI_DRIFTED, _drift_lines, _drifts, drift_sentence, report
from pix2score.report.night import NUM_RANDOM, NightStats, psi
from pix2score.report.page import check_packages, short_labels
from pix2score.snapshots.tables import OK, Layout
from tests.support.builders import HEADS, Key, publish_night, scores_table
from tests.support.chain import Chain

KEYS: list[Key] = [(number, 0) for number in range(200)]
counts = st.lists(st.integers(0, 10_000), min_size=3, max_size=3)


@given(counts, counts)
@settings(max_examples=100, deadline=None)
def test_psi_is_zero_for_equal_shares_and_positive_otherwise(now: list[int], before: list[int]) -> None:
    a, b = np.array(now), np.array(before)
    assert psi(a, b) >= 0
    assert psi(a, b) == pytest.approx(psi(b, a))
    assert psi(a, a) == 0
    assert psi(100 * a + 1000, 200 * a + 2000) == pytest.approx(0, abs=1e-9)


def test_psi_of_a_known_move() -> None:
    assert psi(np.array([50, 50]), np.array([25, 75])) == pytest.approx(
        0.25 * np.log(2) - 0.25 * np.log(50 / 75)
    )


@pytest.mark.parametrize(
    ("value", "mood", "words"),
    [(0.02, "good", "as the night before"), (0.15, "", "moved"), (0.4, "bad", "drifted")],
)
def test_drift_is_said_plainly(value: float, mood: str, words: str) -> None:
    line = drift_sentence("bookmark", value)
    assert line.mood == mood
    assert words in line.text


def test_a_night_gathers_the_same_whatever_the_batches() -> None:
    table = scores_table(KEYS, "run", failed=KEYS[:7])
    score = pa.array([None if i < 7 else (i * 37 % 200) / 200 for i in range(200)], pa.float32())
    table = table.set_column(table.column_names.index("bookmark_score"), "bookmark_score", score)
    for size in (200, 33):
        night = NightStats(HEADS, "run")
        for batch in table.to_batches(max_chunksize=size):
            night.add(batch)
        assert night.rows == 200
        assert night.failed == {"NOT_FOUND": 7}
        assert len(night.failures["NOT_FOUND"]) == module.NUM_FAILED
        assert night.bins["bookmark"].tolist() == [0, 193, 0]
        assert night.fresh["bookmark"].tolist() == [0, 193, 0]
        best = [row["bookmark_score"] for row in night.extremes["bookmark", "highest"]]
        worst = [row["bookmark_score"] for row in night.extremes["bookmark", "lowest"]]
        assert best == sorted(score.drop_null().to_pylist(), reverse=True)[:6]
        assert worst == sorted(score.drop_null().to_pylist())[:6]
        assert len({row["illust_id"] for row in night.drawn}) == NUM_RANDOM
        assert all(row["status"] == OK for row in night.drawn)


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


def night_of(bins: list[int], fresh: list[int]) -> NightStats:
    head = HEADS[0].name
    return NightStats(HEADS[:1], "run", bins={head: np.array(bins)}, fresh={head: np.array(fresh)})


def test_a_few_new_images_that_drift_show_although_the_table_does_not() -> None:
    before = night_of([30_000, 40_000, 30_000], [0, 0, 0])
    drifted = night_of([30_010, 40_010, 30_380], [10, 10, 380])
    drift = _drifts(drifted, before)
    whole, fresh = drift["bookmark"]
    assert whole is not None
    assert fresh is not None
    assert whole < 0.001 < PSI_DRIFTED < fresh
    first, second = _drift_lines(drifted, drift)
    assert (first.mood, second.mood) == ("good", "bad")
    assert second.text.startswith("bookmark, the 400 images scored this night: drifted")
    steady = night_of([30_120, 40_160, 30_120], [120, 160, 120])
    assert len(_drift_lines(steady, _drifts(steady, before))) == 1
    few = night_of([30_000, 40_000, 30_020], [0, 0, 20])
    assert _drifts(few, before)["bookmark"][1] is None


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


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "NEEDED", ("vl_convert", "no_such_package"))
    with pytest.raises(ConfigError, match=r"needs no_such_package.*pip install 'pix2score\[report\]'"):
        check_packages()


def assert_self_contained(text: str) -> None:
    """Nothing is loaded: every address left is a name of an XML namespace or a picture inside the file."""
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.search(r"<(link|script)[^>]+(src|href)=\"(?!data:)", text)


def test_the_report_of_a_real_night_shows_pictures_and_failures(chain: Chain, tmp_path: Path) -> None:
    summary = report(ReportConfig(scores=chain.scores, out=str(tmp_path / "night.html")))
    text = (tmp_path / "night.html").read_text()
    assert_self_contained(text)
    assert summary["rows"] == chain.scored["scored"]
    assert "What limited the run" in text
    assert chain.scored["limiting_stage"] in html.unescape(text)
    assert text.count("data:image/jpeg;base64,") > 20
    for code in chain.scored["failed_by_code"]:
        assert f"<td>{code}</td>" in text
    assert len(text) < 3_000_000


def test_the_report_of_an_evaluation_has_every_head_and_chart(chain: Chain) -> None:
    text = (Path(chain.model).parent / "evaluation" / "report.html").read_text()
    assert_self_contained(text)
    for head in ("bookmark", "view", "sanity"):
        assert f"<h2>{head}</h2>" in text
    assert text.count("<svg") == 9
    assert "Where this head looks" in text
    assert "Largest misses" in text


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


def test_large_bounds_are_short() -> None:
    head = HeadSpec(name="views", column="views", edges=(500, 1500, 36_940_052, 108_562_000))
    assert short_labels(head) == ["0-500", "500-1500", "1500-36.9M", "36.9M-109M", "109M-∞"]
    close = HeadSpec(name="uses", column="uses", edges=(9999, 390_000, 1_084_000, 9_480_000, 1_200_000_000))
    assert short_labels(close) == ["0-9999", "9999-390k", "390k-1.08M", "1.08M-9.48M", "9.48M-1.2G", "1.2G-∞"]
    assert short_labels(HeadSpec(name="level", column="l", kind="levels", size=3)) == ["0", "1", "2"]
