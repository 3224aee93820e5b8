"""Settings of a push that are refused, and how secrets are hidden."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from pix2score.cli.flags import resolve
from pix2score.errors import ConfigError, TargetError
from pix2score.push.config import PushConfig
from pix2score.push.target import without_secrets
from pix2score.push.targets import open_target


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"to": "mysql://u:secret@h/d"}, "expected postgresql://…, lancedb:PLACE or delta:PLACE"),
        ({"to": "postgresql://h/d", "table": "a.b.c"}, "table 'a.b.c': letters"),
        *(
            ({"to": to, "table": table}, "for itself")
            for to in ("postgresql://h/d", "lancedb:x")
            for table in ("pix2score_push", "PIX2SCORE_incoming")
        ),
        ({"to": "postgresql://h/d", "table": "art.pix2score_push"}, "for itself"),
        ({"to": "postgresql://h/d", "table": "a; drop"}, "table 'a; drop': letters"),
        ({"to": "lancedb:/x", "table": "a.b"}, "only Postgres has schemas"),
        ({"to": "delta:/x", "batch_rows": -1}, "batch_rows -1: at least 1, or 0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        PushConfig(scores="s", **settings)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_a_config_does_not_show_where_to() -> None:
    assert "secret" not in repr(PushConfig(scores="s", to="postgresql://u:secret@h/d"))


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:secret@h/d",
        "could not parse postgresql://u:secret@[::1/d",
        "postgresql://u:s:ecret@h",
        "a password=secret b",
        "postgresql://h/d?sslpassword=secret&x=1",
    ],
)
def test_passwords_are_hidden(text: str) -> None:
    assert "ecret" not in without_secrets(text)


@pytest.mark.parametrize("password", ["secret\n", "\nsecret", "se cret\tsecret", "a\r\nsecret@x"])
def test_a_password_with_a_break_in_it_is_hidden(password: str) -> None:
    """As a file or variable may have one at its end."""
    url = f"postgresql://u:{password}@127.0.0.1:1/d"
    with pytest.raises(TargetError) as caught:
        open_target(PushConfig(scores="s", to=url))
    assert "ecret" not in str(caught.value)


def test_a_url_that_is_no_text_is_refused_without_its_password() -> None:
    url = "postgresql://u:secret\udce9@127.0.0.1:1/d"
    with pytest.raises(TargetError, match="table scores: not text in UTF-8") as caught:
        open_target(PushConfig(scores="s", to=url))
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "place",
    [
        "s3://AKIA:secret@bucket/x",
        "s3://AKIA:se/secret@bucket/x",
        "s3://AKIA:se\nsecret@bucket/x",
        "https://u:secret@h/x?sig=secret",
        "https://u:se/secret@h/x",
        "x://h?secret",
    ],
)
def test_credentials_in_a_place_are_refused_and_not_shown(place: str) -> None:
    for config in (
        PushConfig(scores="s", to=f"delta:{place}"),
        PushConfig(scores="s", to=f"lancedb:{place}"),
        PushConfig(scores=place, to="delta:/x"),
    ):
        with pytest.raises(
            ConfigError, match="credentials are no part of a place|is neither a local"
        ) as caught:
            open_target(config)
        assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_a_library_in_rust_does_not_name_its_sources() -> None:
    said = "no such file, /root/.cargo/registry/src/index-1/lance-13.0.0/src/a.rs:12:5"
    assert without_secrets(said) == "no such file"


@pytest.mark.parametrize("to", ["host=h password=secret user=u", "secret", "password=secret:x", "/secret"])
def test_what_is_no_target_is_not_shown(to: str) -> None:
    with pytest.raises(ConfigError, match=r"^to …: expected postgresql://") as caught:
        PushConfig(scores="s", to=to)
    assert "secret" not in str(caught.value)


def test_a_target_of_another_type_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "push.toml").write_text('scores = "s"\nto = ["postgresql://u:secret@h/d"]\n')
    with pytest.raises(ConfigError, match="^--to …: expected text") as caught:
        resolve(PushConfig, ["--config", str(tmp_path / "push.toml")])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("to", ["delta:a/scores", "lancedb:./a/scores/", "lancedb:a/scores/x", "delta:a"])
def test_a_table_and_the_scores_do_not_lie_in_each_other(to: str) -> None:
    with pytest.raises(ConfigError, match="want a folder each"):
        open_target(PushConfig(scores="a/scores", to=to))


def test_a_table_beside_the_scores_is_one(tmp_path: Path) -> None:
    for kind in ("lancedb", "delta"):
        open_target(PushConfig(scores=f"{tmp_path}/scores", to=f"{kind}:{tmp_path}/scores-table")).close()


def test_what_a_library_colours_for_a_terminal_is_plain() -> None:
    assert without_secrets("Generic error\n \x1b[31m↳\x1b[0m no such file") == "Generic error ↳ no such file"
