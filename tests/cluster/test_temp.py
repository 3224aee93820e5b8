"""Ray's folder for sockets and logs: what the user names if it does, else the next, with a warning."""

from __future__ import annotations

from pathlib import Path

import pytest

from pix2score.cluster import temp as module
from pix2score.cluster.temp import ray_temp
from pix2score.errors import ConfigError


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(module, "_FOLDERS", (str(tmp_path / "own"),))
    monkeypatch.setattr(module, "MAX_SOCKET_BYTES", len(str(tmp_path)) + 200)
    return tmp_path


def test_rays_own_folder_is_taken_where_it_does() -> None:
    assert ray_temp() is None


def test_a_folder_that_the_user_names_is_taken_by_ray_itself(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(folders / "named"))
    assert ray_temp() is None


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("long", "too long for a socket's path"),
        ("a file", "Not a directory"),
        ("relative", "not an absolute path"),
    ],
)
def test_one_that_does_not_do_is_passed_over_with_a_warning(
    folders: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    kind: str,
    reason: str,
) -> None:
    (folders / "file").write_text("1")
    value = {
        "long": str(folders / ("x" * 200)),
        "a file": str(folders / "file" / "below"),
        "relative": "somewhere",
    }[kind]
    monkeypatch.setenv(name, value)
    assert ray_temp() == str(folders / "own" / "ray")
    (record,) = caplog.records
    assert f"{name} {value}: {reason}" in record.getMessage()


def test_with_none_left_it_is_one_line_that_says_what_to_do(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_SOCKET_BYTES", 20)
    with pytest.raises(ConfigError, match="Ray finds no folder for its sockets .* name one by RAY_TMPDIR"):
        ray_temp()


def test_the_limit_counts_all_that_ray_adds() -> None:
    assert len("/tmp" + module._LONGEST) < 107
