"""Commands: flags and file set the same names, every mistake is one clear line, every end has its exit code
and a JSON line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pix2score.catalog.catalog import Columns
from pix2score.cli.flags import as_plain, resolve
from pix2score.cli.main import main, run
from pix2score.errors import ConfigError, ConflictError, DataError, LimitError, StorageError, VerifyError
from pix2score.storage.folder import Folder
from tests.support.paths import ROOT


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    """Settings of a job that is like the real ones."""

    catalog: str
    """Where the catalog lies."""
    batch_size: int | None = None
    """Images per pass."""
    max_failed: float = 0.05
    """Share."""
    full: bool = False
    """Do all again."""
    image_root: tuple[str, ...] = ()
    """More places."""
    columns: Columns = field(default_factory=Columns)
    heads: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if self.max_failed > 1:
            raise ConfigError(f"max_failed {self.max_failed}: expected 0 to 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadlessConfig:
    """Settings of a job without heads."""

    scores: str = "x"


def resolved(*argv: str) -> JobConfig:
    return resolve(JobConfig, argv, prog="python -m jobs.job", about="A job.")


def refusal(*argv: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolved(*argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def toml(tmp_path: Path, text: str) -> str:
    path = tmp_path / "job.toml"
    path.write_text(text)
    return str(path)


def test_flags_are_made_from_the_fields() -> None:
    config = resolved(
        "--catalog",
        "c",
        "--batch-size",
        "8",
        "--max-failed=0.5",
        "--full",
        "--columns.id",
        "work",
        "--columns.updated-at=t",
    )
    assert config == JobConfig(
        catalog="c", batch_size=8, max_failed=0.5, full=True, columns=Columns(id="work", updated_at="t")
    )


def test_flags_may_be_written_with_underscores() -> None:
    assert resolved("--catalog", "c", "--batch_size", "8").batch_size == 8


def test_a_list_flag_is_repeated() -> None:
    assert resolved("--catalog", "c", "--image-root", "a", "--image-root", "s3://b/c").image_root == (
        "a",
        "s3://b/c",
    )


def test_a_file_sets_the_same_names(tmp_path: Path) -> None:
    path = toml(
        tmp_path,
        'catalog = "c"\nbatch_size = 8\nmax_failed = 0.5\nfull = true\nimage_root = ["a", "-b c"]\n'
        '[columns]\nid = "work"\nupdated_at = "t"\n',
    )
    expected = JobConfig(
        catalog="c",
        batch_size=8,
        max_failed=0.5,
        full=True,
        image_root=("a", "-b c"),
        columns=Columns(id="work", updated_at="t"),
    )
    assert resolved("--config", path) == resolved(f"--config={path}") == expected


def test_a_file_may_lie_on_s3(s3_place: str) -> None:
    Folder(s3_place).publish("job.toml", b'catalog = "from s3"')
    assert resolved("--config", f"{s3_place}/job.toml").catalog == "from s3"


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (["--batch-size", "9"], "batch_size", 9),
        (["--batch-size=9"], "batch_size", 9),
        (["--batch_size=9"], "batch_size", 9),
        (["--no-full"], "full", False),
        (["--image-root", "z"], "image_root", ("z",)),
        (["--image_root", "z"], "image_root", ("z",)),
        (["--columns.id", "mine"], "columns", Columns(id="mine", updated_at="t")),
        (["--columns.updated_at", "mine"], "columns", Columns(id="work", updated_at="mine")),
    ],
)
def test_flags_win_over_the_file(tmp_path: Path, flags: list[str], name: str, value: Any) -> None:
    text = (
        'catalog = "c"\nbatch_size = 8\nfull = true\nimage_root = ["a", "b"]\n[columns]\nid = '
        '"work"\nupdated_at = "t"\n'
    )
    assert getattr(resolved("--config", toml(tmp_path, text), *flags), name) == value


def test_heads_come_from_the_file_alone(tmp_path: Path) -> None:
    path = toml(
        tmp_path, 'catalog = "c"\n[[heads]]\nname = "a"\nedges = [1, 2]\n[[heads]]\nname = "b"\nsize = 3\n'
    )
    assert resolved("--config", path).heads == ({"name": "a", "edges": [1, 2]}, {"name": "b", "size": 3})
    assert "--heads" in refusal("--catalog", "c", "--heads", "x")


@pytest.mark.parametrize("text", ['heads = "bookmark"', "heads = 3", '[heads]\nname = "a"', 'heads = ["a"]'])
def test_heads_that_are_not_a_list_of_tables_are_refused(tmp_path: Path, text: str) -> None:
    message = refusal("--catalog", "c", "--config", toml(tmp_path, text))
    assert "[[heads]]" in message


def test_heads_for_a_job_without_them_are_an_unknown_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key 'heads'"):
        resolve(HeadlessConfig, ["--config", toml(tmp_path, '[[heads]]\nname = "a"')])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("batchsize = 8", ["unknown key 'batchsize'", "did you mean 'batch_size'"]),
        ("zzz = 8", ["unknown key 'zzz'", "known: catalog, batch_size"]),
        ("batch-size = 8", ["unknown key 'batch-size'", "'batch_size'"]),
        ('[columns]\nidd = "x"', ["unknown key 'columns.idd'", "'id'"]),
        ('[batch_size]\nx = "x"', ["'batch_size' is a single value, not a table"]),
        ("catalog = ", ["not valid TOML"]),
        ('batch_size = "many"', ["--batch-size", "many"]),
    ],
)
def test_a_mistake_in_the_file_is_one_line_naming_it(tmp_path: Path, text: str, parts: list[str]) -> None:
    message = refusal("--catalog", "c", "--config", toml(tmp_path, text))
    assert all(part in message for part in parts), message


def test_a_config_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert f"--config {tmp_path}/absent.toml: no such file" in refusal("--config", f"{tmp_path}/absent.toml")
    assert "--config needs a TOML file" in refusal("--catalog", "c", "--config")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--catalog", "c", "--batchsize", "8"], ["--batchsize", "did you mean --batch-size"]),
        (["--catalog", "c", "--columns.idd", "8"], ["--columns.idd", "--columns.id"]),
        (["--batch-size", "8"], ["--catalog"]),
        (["--catalog", "c", "--batch-size", "many"], ["--batch-size", "many"]),
        (["--catalog", "c", "--max-failed", "3"], ["max_failed 3.0: expected 0 to 1"]),
        (["--catalog", "c", "stray"], ["stray"]),
        (["--catalog"], ["--catalog"]),
    ],
)
def test_a_mistaken_flag_is_one_line_naming_it(flags: list[str], parts: list[str]) -> None:
    message = refusal(*flags)
    assert all(part in message for part in parts), message
    assert not any(frame in message for frame in "│╭╰─")


def ended(
    capsys: pytest.CaptureFixture[str], result: Mapping[str, Any] | Exception, *argv: str
) -> tuple[int, list[str], str]:
    """Exit code, lines of standard output, standard error."""

    def job(config: JobConfig) -> Mapping[str, Any]:
        print("a line of progress")
        if isinstance(result, Exception):
            raise result
        return result

    code = run("job", JobConfig, job, "A job.", argv or ("--catalog", "c"))
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def test_a_job_that_ends_well_exits_0_with_its_summary_as_the_last_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, lines, err = ended(capsys, {"job": "job", "scored": 3, "where": "絵"})
    assert (code, json.loads(lines[-1]), err) == (0, {"job": "job", "scored": 3, "where": "絵"}, "")


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (ConfigError("bad\nflag"), 2),
        (DataError("bad data"), 2),
        (LimitError("too many"), 3),
        (ConflictError("late"), 4),
        (StorageError("disk"), 1),
        (VerifyError("altered"), 1),
    ],
)
def test_each_error_has_its_exit_code_one_line_and_a_json_line(
    capsys: pytest.CaptureFixture[str], error: Exception, exit_code: int
) -> None:
    code, lines, err = ended(capsys, error)
    message = " ".join(str(error).split())
    assert code == exit_code
    assert json.loads(lines[-1]) == {
        "job": "job",
        "error": type(error).__name__,
        "message": message,
        "exit_code": exit_code,
    }
    assert err == f"jobs.job: {message}\n"


def test_what_nobody_foresaw_exits_1_with_a_json_line(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    code, lines, _ = ended(capsys, RuntimeError("oops"))
    assert (code, json.loads(lines[-1])) == (
        1,
        {"job": "job", "error": "RuntimeError", "message": "oops", "exit_code": 1},
    )
    assert "Traceback" in caplog.text


def test_a_mistaken_flag_exits_2_before_the_job_starts(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines, err = ended(capsys, {}, "--catalog", "c", "--ful")
    assert (code, len(lines), json.loads(lines[0])["error"]) == (2, 1, "ConfigError")
    assert len(err.splitlines()) == 1


def test_help_exits_0_and_tells_every_flag_and_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("job", JobConfig, lambda config: {}, "What the job does.", ["--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(
        word in out
        for word in (
            "What the job does.",
            "--catalog",
            "--batch-size",
            "--columns.id",
            "--config",
            "Images per pass.",
        )
    )


def test_main_exits_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["job", "--catalog", "c"])
    with pytest.raises(SystemExit) as caught:
        main("job", JobConfig, lambda config: {"job": "job"}, "A job.")
    assert caught.value.code == 0


def test_a_resolved_config_is_plain_and_complete() -> None:
    plain = as_plain(resolved("--catalog", "c", "--image-root", "a"))
    assert json.loads(json.dumps(plain))["columns"]["id"] == "illust_id"
    assert set(plain) == {"catalog", "batch_size", "max_failed", "full", "image_root", "columns", "heads"}


def test_a_real_command_reports_a_users_mistake_as_documented(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.verify", "--scores", str(tmp_path / "none")],
        capture_output=True,
        check=False,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert json.loads(done.stdout.splitlines()[-1])["error"] == "DataError"
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


TELLS = r"""
import dataclasses, logging
from pix2score.cli.main import main
from pix2score.errors import DataError

@dataclasses.dataclass(frozen=True)
class Config:
    out: str

def job(config):
    print("a line: \u7d75 \u00fc", flush=True)
    logging.warning("a warning: \u7d75 \udcff")
    if config.out == "fails":
        raise DataError("no picture \u7d75 \udcff")
    return {"where": "\u7d75 \u00fc \udcff"}

main("job", Config, job, "A job.")
"""
"""Half a character stands for what a file name holds that is no UTF-8."""


@pytest.mark.parametrize("out", ["good", "fails"])
@pytest.mark.parametrize(
    "settings",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "utf-8"},
    ],
)
def test_no_encoding_of_the_terminal_ends_a_job(settings: dict[str, str], out: str) -> None:
    words = [sys.executable, "-c", TELLS, "--out", out]
    done = subprocess.run(words, capture_output=True, check=False, env={**os.environ, **settings})
    assert done.returncode == (2 if out == "fails" else 0), done.stderr
    encoding = settings.get("PYTHONIOENCODING", "ascii")
    report = json.loads(done.stdout.decode(encoding).splitlines()[-1])
    assert "絵" in (report["message"] if out == "fails" else report["where"])
    assert b"Traceback" not in done.stderr
    assert b"Logging error" not in done.stderr
    assert (b"no picture" in done.stderr) == (out == "fails")
    assert ("絵".encode() in done.stdout) == (encoding == "utf-8")
