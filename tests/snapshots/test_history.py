"""The table of a scores folder's snapshots, for a person and as JSON."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pix2score.cli.main import run
from pix2score.errors import ConfigError, DataError
from pix2score.snapshots.config import HistoryConfig, PublishConfig, VacuumConfig
from pix2score.snapshots.history import age_text, show_history
from pix2score.snapshots.manifest import path_of, publish, ranges_text, read_manifests, remove_manifests
from pix2score.snapshots.restore import publish_snapshot
from pix2score.snapshots.vacuum import vacuum
from pix2score.storage.folder import Folder
from tests.support.builders import LAYOUT, manifest
from tests.support.nights import World, keys

ACCOUNT = {"images": 90, "seconds": 50.4, "overhead_s": 9.8, "scored": 100, "failed": 3}


def night(folder: Folder, number: int, days_ago: float = 0, **facts: Any) -> None:
    """A manifest as a night leaves it."""
    published = (datetime.now(UTC) - timedelta(days=days_ago)).isoformat(timespec="seconds")
    content: dict[str, Any] = {
        **manifest(f"run-{number}", [], LAYOUT, 1000, 3),
        "published_at": published,
        "account": {**ACCOUNT, "drift": {"bookmark": 0.02, "sanity": 0.31}},
        **facts,
    }
    publish(folder, number - 1, content)


def told(place: str, **settings: Any) -> tuple[list[str], dict[str, Any]]:
    """Lines and summary."""
    lines: list[str] = []
    return lines, show_history(HistoryConfig(scores=place, **settings), lines.append)


def test_a_line_for_each_snapshot_newest_first_with_what_its_night_did(place: str) -> None:
    folder = Folder(place)
    night(folder, 1, 2.5, account=None)
    night(
        folder, 2, 1.2, note="a wider\ncatalog", counts={"rows": 1000, "ok": 900, "failed": 60, "pending": 40}
    )
    night(folder, 3, 0.1)
    lines, summary = told(place)
    titles, *rows = [" ".join(line.split()) for line in lines]
    assert titles == "snapshot published age model rows ok failed pending scored drift seconds files of note"
    assert rows[0].startswith("3 live ")
    assert rows[0].endswith(" 2 h 0123456789ab 1000 997 3 0 100 0.31 sanity 60 - -")
    assert rows[1].endswith(" 1 d 0123456789ab 1000 900 60 40 100 0.31 sanity 60 - a wider catalog")
    assert rows[2].endswith(" 2 d 0123456789ab 1000 997 3 0 - - - - -")
    assert [row["snapshot"] for row in summary["snapshots"]] == [3, 2, 1]
    newest = summary["snapshots"][0]
    assert (summary["live"], newest["drift"], newest["drift_head"], newest["scored"], newest["seconds"]) == (
        3,
        0.31,
        "sanity",
        100,
        60.2,
    )
    assert json.loads(json.dumps(summary)) == summary


def test_the_time_is_that_of_where_one_is(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    night(Folder(str(tmp_path)), 1, published_at="2026-11-21T23:30:00+00:00")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert "2026-11-22 08:30" in told(str(tmp_path))[0][1]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_snapshots_taken_back_and_compacted_name_the_one_whose_rows_they_have(tmp_path: Any) -> None:
    world = World(str(tmp_path))
    world.night(keys(*range(9)))
    world.night({**keys(*range(9)), **{(i, 0): "other" for i in range(8)}})
    vacuum(VacuumConfig(scores=world.scores))
    publish_snapshot(PublishConfig(scores=world.scores, snapshot=1, note="7 was no picture"))
    lines, summary = told(world.scores)
    shown = [" ".join(line.split()) for line in lines]
    assert shown[1].startswith("4 live ")
    assert shown[1].endswith(" - 1 7 was no picture")
    assert shown[2].endswith(" - 2, compacted -")
    found = [(row["snapshot"], row["restored_from"], row["compaction_of"]) for row in summary["snapshots"]]
    assert found == [(4, 1, None), (3, None, 2), (2, None, None), (1, None, None)]
    assert "@" in summary["snapshots"][0]["published_by"]


def test_a_snapshot_that_only_names_files_of_another_claims_nothing_of_its_run(tmp_path: Any) -> None:
    folder = Folder(str(tmp_path))
    night(folder, 1)
    night(folder, 2, compaction_of=[1])
    night(folder, 3, restored_from=1)
    rows = told(str(tmp_path))[1]["snapshots"]
    assert [(row["scored"], row["seconds"], row["drift"]) for row in rows] == [
        (None, None, None),
        (None, None, None),
        (100, 60.2, 0.31),
    ]


def test_limit_shows_the_newest_and_says_how_many_more_there_are(tmp_path: Any) -> None:
    folder = Folder(str(tmp_path))
    for number in range(1, 6):
        night(folder, number)
    remove_manifests(folder, [1])
    lines, summary = told(str(tmp_path), limit=2)
    assert [line.split()[0] for line in lines] == ["snapshot", "5", "4", "and"]
    assert lines[-1] == "and 2 older ones"
    assert (len(summary["snapshots"]), summary["num_snapshots"]) == (2, 4)


def test_a_manifest_of_another_version_is_a_line_and_no_end(tmp_path: Any) -> None:
    folder = Folder(str(tmp_path))
    night(folder, 1)
    night(folder, 2, schema_version=99)
    folder.publish(path_of(3), b"[]" * 40)
    lines, summary = told(str(tmp_path))
    assert "not a snapshot manifest" in summary["snapshots"][0]["error"]
    assert "schema version 99" in summary["snapshots"][1]["error"]
    assert " - " in lines[2] and "has schema version" not in lines[3]
    assert summary["snapshots"][2]["rows"] == 1000


def test_no_snapshots_and_no_sense_are_told(tmp_path: Any) -> None:
    with pytest.raises(DataError, match="no scores at"):
        told(str(tmp_path))
    with pytest.raises(ConfigError, match="limit 0: at least 1"):
        HistoryConfig(scores="x", limit=0)


def test_json_is_the_last_line_and_with_json_the_only_one(tmp_path: Any, capsys: Any) -> None:
    night(Folder(str(tmp_path)), 1)
    for more, num_lines in (([], 3), (["--json"], 1)):
        words = ["--scores", str(tmp_path), *more]
        assert run("history", HistoryConfig, lambda config: show_history(config, print), "", words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == num_lines
        assert json.loads(lines[-1])["live"] == 1


def test_more_manifests_than_are_read_at_once_come_in_the_order_asked_for(tmp_path: Any) -> None:
    folder = Folder(str(tmp_path))
    for number in range(1, 151):
        folder.publish(path_of(number), f"manifest {number} of a snapshot that is there".encode())
    remove_manifests(folder, [7, 140])
    wanted = [number for number in range(150, 0, -1) if number not in (7, 140)]
    assert [number for number, _ in read_manifests(folder, list(range(150, 0, -1)))] == wanted


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], "none"),
        ([3], "3"),
        ([1, 2], "1-2"),
        ([1, 2, 3, 7, 9, 10], "1-3, 7, 9-10"),
        (range(1, 45), "1-44"),
    ],
)
def test_numbers_are_told_as_ranges(numbers: Any, text: str) -> None:
    assert ranges_text(list(numbers)) == text


@pytest.mark.parametrize(
    ("age_s", "text"),
    [(-5, "0 s"), (59.9, "59 s"), (3599, "59 min"), (86_399, "23 h"), (86_400 * 3.9, "3 d")],
)
def test_an_age_is_told_in_its_greatest_unit(age_s: float, text: str) -> None:
    assert age_text(age_s) == text
