"""Settings: every field has its flag, its help and its type, and a value of another type is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from pix2score.cli.flags import resolve
from pix2score.cli.settings import POSITIONAL, build, settings_of
from pix2score.errors import ConfigError
from pix2score.score.config import ScoreConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """What is called how."""

    key: str = "id"
    """Of an illustration."""
    page: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AnyConfig:
    """One setting of each type."""

    out: str
    """Where it goes,
    in two lines."""
    rows: int = 3
    share: float = 0.5
    full: bool = False
    limit: int | None = None
    workers: int | str | None = None
    device: Literal["cpu", "gpu"] = "cpu"
    roots: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    names: Names = field(default_factory=Names)
    images: tuple[str, ...] = field(default=(), metadata={POSITIONAL: "IMAGE"})


SETTINGS = {setting.name: setting for setting in settings_of(AnyConfig)}


def test_every_field_is_a_setting_with_the_text_below_it() -> None:
    assert [*SETTINGS][-3:] == ["names.key", "names.page", "images"]
    assert SETTINGS["out"].help == "Where it goes, in two lines."
    assert (SETTINGS["names.key"].flag, SETTINGS["names.key"].help) == ("--names.key", "Of an illustration.")
    assert [name for name, setting in SETTINGS.items() if setting.is_required] == ["out"]


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("out", "a", "a"),
        ("out", 5.50, "5.5"),
        ("out", "", ""),
        ("out", "None", "None"),
        ("rows", "-8", -8),
        ("rows", 8, 8),
        ("share", "1e-3", 0.001),
        ("share", 1, 1.0),
        ("full", True, True),
        ("limit", "None", None),
        ("limit", "7", 7),
        ("names.page", "None", None),
        ("names.page", "none", "none"),
        ("workers", "2", 2),
        ("workers", "2..8", "2..8"),
        ("workers", 1.5, "1.5"),
        ("device", "gpu", "gpu"),
        ("roots", "a", ("a",)),
        ("roots", ["a", "-b", '["c"]', "絵"], ("a", "-b", '["c"]', "絵")),
        ("roots", [], ()),
        ("sizes", [1, "2"], (1, 2)),
    ],
)
def test_a_word_or_a_value_of_a_file_becomes_what_the_field_holds(name: str, given: Any, value: Any) -> None:
    found = SETTINGS[name].value(given)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("rows", "2.7", "--rows 2.7: expected a whole number;"),
        ("rows", 8.0, "--rows 8.0: expected a whole number;"),
        ("rows", "0x10", "--rows 0x10: expected a whole number;"),
        ("rows", "None", "--rows None: expected a whole number;"),
        ("rows", True, "--rows True: expected a whole number;"),
        ("rows", [8], r"--rows \[8\]: expected a whole number;"),
        ("limit", "x", "--limit x: expected a whole number or None;"),
        ("share", "5%", "--share 5%: expected a number;"),
        ("out", False, "--out False: expected text;"),
        ("out", ["a"], r"--out \['a'\]: expected text;"),
        ("full", 1, "--full 1: expected true or false;"),
        ("full", "yes", "--full yes: expected true or false;"),
        ("device", "GPU", "--device GPU: expected one of cpu, gpu;"),
        ("device", 1, "--device 1: expected one of cpu, gpu;"),
        ("sizes", ["1", "x"], "--sizes x: expected a whole number;"),
        ("roots", [["a"]], r"--roots \['a'\]: expected text;"),
    ],
)
def test_a_value_of_another_type_is_refused_naming_the_flag(name: str, given: Any, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        SETTINGS[name].value(given)


def test_a_config_is_built_from_dotted_names() -> None:
    config = build(AnyConfig, {"out": "o", "names.page": "p"})
    assert config == AnyConfig(out="o", names=Names(page="p"))


def test_images_stand_without_a_flag_also_where_they_begin_with_a_dash() -> None:
    assert resolve(AnyConfig, ["--out", "o", "a.jpg", "b c.jpg"]).images == ("a.jpg", "b c.jpg")
    assert resolve(AnyConfig, ["--out", "o", "--", "-a.jpg"]).images == ("-a.jpg",)
    assert resolve(AnyConfig, ["--out", "o", "--", "--a_b.jpg", "--rows"]).images == ("--a_b.jpg", "--rows")


@pytest.mark.parametrize("columns", [30, 110])
def test_help_fits_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        resolve(AnyConfig, ["--help"], prog="job", about="What it does.")
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[1:])) <= columns
    assert "usage: job --out STR [OPTIONS] IMAGE..." in " ".join(out.split())
    assert "Where it goes, in two lines. (required)" in " ".join(out.split())
    assert "names options: What is called how." in " ".join(out.split())
    assert "Of an illustration. (default: id)" in " ".join(out.split())
    assert out.isascii()


@pytest.mark.parametrize("word", ["auto", "float16", "float32"])
def test_a_choice_that_names_a_type_of_choices_is_a_flag(word: str) -> None:
    words = ["--catalog=c", "--model=m", "--out=o", f"--embedding-dtype={word}"]
    assert resolve(ScoreConfig, words).embedding_dtype == word
