"""The account of a run: written whether it ends well or not, and never after a user's mistake."""

from __future__ import annotations

import json
import time

import pytest

from pix2score.cli.summary import StageTimer, recorded
from pix2score.errors import DataError, LimitError
from pix2score.storage.folder import Folder

PATH = "runs/r1/summary.json"


def test_a_run_that_ends_well_leaves_its_summary(place: str) -> None:
    folder = Folder(place)
    with recorded(folder, PATH, {"job": "score"}) as summary:
        summary["scored"] = 3
    assert json.loads(folder.read(PATH)) == summary
    assert summary["scored"] == 3
    assert summary["seconds"] >= 0


@pytest.mark.parametrize(
    ("error", "exit_code"), [(LimitError("too many"), 3), (RuntimeError("oops"), 1), (KeyboardInterrupt(), 1)]
)
def test_a_run_that_fails_leaves_what_it_had_and_the_error(
    place: str, error: BaseException, exit_code: int
) -> None:
    folder = Folder(place)
    with pytest.raises(type(error)) as caught, recorded(folder, PATH, {"job": "score"}) as summary:
        summary["scored"] = 3
        raise error
    written = json.loads(folder.read(PATH))
    assert (written["scored"], written["error"], written["message"], written["exit_code"]) == (
        3,
        type(error).__name__,
        str(error),
        exit_code,
    )
    assert caught.value.summary["scored"] == 3  # type: ignore[attr-defined]


def test_a_file_name_that_is_no_utf8_does_not_keep_the_account_from_being_written(place: str) -> None:
    folder = Folder(place)
    with recorded(folder, PATH, {"out": "scores-\udcff"}):
        pass
    assert json.loads(folder.read(PATH))["out"] == "scores-\udcff"


def test_a_mistake_found_in_the_middle_of_a_run_leaves_what_it_had(place: str) -> None:
    folder = Folder(place)
    with pytest.raises(DataError), recorded(folder, PATH, {"job": "score"}) as summary:
        summary["planned"] = 3
        raise DataError("the credentials have expired")
    written = json.loads(folder.read(PATH))
    assert (written["planned"], written["error"], written["exit_code"]) == (3, "DataError", 2)


def test_a_users_mistake_writes_nothing(place: str) -> None:
    folder = Folder(place)
    with pytest.raises(DataError) as caught, recorded(folder, PATH, {"job": "score"}):
        raise DataError("no such catalog")
    assert folder.entries() == []
    assert caught.value.summary["job"] == "score"  # type: ignore[attr-defined]


def test_that_the_summary_cannot_be_written_does_not_hide_the_failure(tmp_path: object) -> None:
    blocked = Folder(f"{tmp_path}/file")
    Folder(str(tmp_path)).publish("file", b"not a folder")
    with pytest.raises(LimitError, match="too many"), recorded(blocked, PATH, {}):
        raise LimitError("too many")


def test_laps_add_up_to_the_whole() -> None:
    laps = StageTimer()
    for name, seconds in (("a", 0.05), ("b", 0.02), ("a", 0.03)):
        time.sleep(seconds)
        laps.lap(name)
    assert list(laps.seconds) == ["a", "b"]
    assert laps.seconds["a"] >= 0.08 > laps.seconds["b"] >= 0.02
    assert sum(laps.seconds.values()) == pytest.approx(laps.total(), abs=0.01)
