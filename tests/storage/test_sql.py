"""The embedded engine: its temporary disk is checked and named, what killed processes leave is removed,
transfers keep their order."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from pix2score.errors import ConfigError, StorageError
from pix2score.host.scratch import LOCK
from pix2score.storage.sql import _database, engine, in_memory, side_by_side

HOLD = """
import os, signal, sys, time
from pix2score.storage.sql import engine
with engine() as connection:
    connection.execute("CREATE TABLE numbers AS SELECT range AS i, "
            "md5(range::VARCHAR) AS text FROM range(200000)")
    connection.execute("CHECKPOINT")
    if sys.argv[1] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    print("working", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, of this process and of those it starts."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def killed(temporary: Path) -> Path:
    """What a process leaves that was killed while its engine worked."""
    done = subprocess.run([sys.executable, "-c", HOLD, "die"], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = temporary.iterdir()
    assert (left / "rows.duckdb").stat().st_size > 2**20
    return left


def use_engine() -> None:
    with engine() as connection:
        connection.execute("SELECT 1")


def test_what_a_killed_process_left_goes_when_the_next_engine_starts(temporary: Path) -> None:
    killed(temporary)
    use_engine()
    assert list(temporary.iterdir()) == []


def test_the_folder_of_a_living_process_stays(temporary: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, "live"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin and child.stdout and child.stdout.readline() == b"working\n"
    (folder,) = temporary.iterdir()
    use_engine()
    assert (folder / "rows.duckdb").is_file()
    child.stdin.close()
    assert child.wait(timeout=60) == 0
    assert list(temporary.iterdir()) == []


def test_an_engine_in_another_thread_of_this_process_keeps_its_folder(temporary: Path) -> None:
    with engine() as connection:
        thread = threading.Thread(target=use_engine)
        thread.start()
        thread.join()
        connection.execute("CREATE TABLE numbers AS SELECT range AS i FROM range(100000)")
        connection.execute("CHECKPOINT")
        (folder,) = temporary.iterdir()
        assert (folder / "rows.duckdb").is_file()


def test_folders_that_are_not_known_to_be_ours_stay(temporary: Path) -> None:
    without_lock = temporary / "pix2score-benchmark-x"
    without_lock.mkdir()
    (without_lock / "images").mkdir()
    elsewhere = temporary / "pix2score-elsewhere"
    elsewhere.mkdir()
    (elsewhere / LOCK).write_text("another-machine another-boot")
    target = temporary / "target"
    target.mkdir()
    (target / LOCK).write_text(f"{os.uname().nodename} x")
    (temporary / "pix2score-link").symlink_to(target)
    old = time.time() - 86_400
    for path in (without_lock, elsewhere, elsewhere / LOCK, target):
        os.utime(path, (old, old))
    use_engine()
    assert (without_lock / "images").is_dir()
    assert (elsewhere / LOCK).is_file()
    assert (target / LOCK).is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_an_abandoned_folder_of_another_user_stays(temporary: Path) -> None:
    left = killed(temporary)
    os.chown(left, 12_345, -1)
    use_engine()
    assert left.is_dir()


def test_too_little_temporary_disk_is_said_before_the_work_and_nothing_is_left(temporary: Path) -> None:
    with pytest.raises(ConfigError) as refused, engine(disk_bytes=2**60, what="planning 7 rows"):
        pytest.fail("it began")
    message = str(refused.value)
    assert message.startswith("planning 7 rows needs about 1073741824.0 GiB of temporary disk: ")
    assert f"are free in {temporary}" in message and "TMPDIR" in message and "\n" not in message
    assert list(temporary.iterdir()) == []


def test_a_spill_that_finds_no_room_is_one_line_that_names_the_folder(temporary: Path) -> None:
    with pytest.raises(StorageError) as failed, engine(2**27, what="planning 7 rows") as connection:
        connection.execute("SET max_temp_directory_size='16MiB'")
        sql = (
            "SELECT range AS i, repeat(md5(range::VARCHAR), 4) AS text FROM range(3000000) ORDER BY "
            "md5(range::VARCHAR)"
        )
        for _ in connection.sql(sql).to_arrow_reader(65_536):
            pass
    message = str(failed.value)
    assert (
        message.startswith("planning 7 rows filled the disk of temporary files: ")
        and str(temporary) in message
        and "TMPDIR" in message
    )
    assert "\n" not in message


FILL = """
import sys, tempfile
from pix2score.storage.sql import engine
from pix2score.errors import StorageError
try:
    with engine(what="planning 7 rows") as connection:
        connection.execute("CREATE TABLE numbers AS SELECT range AS i, "
            "md5(range::VARCHAR) AS text FROM range(1000000)")
        connection.execute("CHECKPOINT")
except StorageError as exc:
    print(exc)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_fills_up_is_one_line_that_names_the_folder(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=4m none "$1" || exit 77; TMPDIR=$1 exec "$2" -c "$3"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FILL]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no mounting here")
    assert done.stdout.startswith("planning 7 rows filled the disk of temporary files: "), done.stderr
    assert f"are free in {tmp_path}" in done.stdout and done.stdout.count("\n") == 1


def test_a_full_disk_under_what_is_written_beside_the_engine_is_the_same_line(temporary: Path) -> None:
    with (
        pytest.raises(StorageError, match="sorting 7 rows filled the disk of temporary files"),
        engine(what="sorting 7 rows"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_other_errors_of_the_engine_keep_their_kind(temporary: Path) -> None:
    with pytest.raises(FileNotFoundError), engine():
        (temporary / "nothing-here").read_text()
    assert list(temporary.iterdir()) == []


def numbers(start: int) -> pa.Table:
    return pa.table({"i": list(range(start, start + 5))})


def test_a_table_of_small_sql_is_unknown_to_the_next_and_to_other_threads() -> None:
    both = threading.Barrier(2)

    def total(start: int) -> list[int]:
        both.wait()
        return [in_memory("SELECT sum(i) s FROM t", t=numbers(start))["s"][0].as_py() for _ in range(50)]

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(total, (0, 100))) == [[10] * 50, [510] * 50]
    with pytest.raises(duckdb.CatalogException, match="t does not exist"):
        in_memory("SELECT * FROM t")


def test_what_small_sql_made_or_set_is_gone_with_it() -> None:
    hour = "SELECT extract(hour FROM epoch_ms(0)::TIMESTAMPTZ) AS h"
    assert in_memory(hour)["h"].to_pylist() == [0]
    in_memory("SET TimeZone='Asia/Tokyo'; CREATE TEMP TABLE left_over AS SELECT 1 AS i; SELECT 1 AS i")
    assert in_memory(hour)["h"].to_pylist() == [0]
    with pytest.raises(duckdb.CatalogException):
        in_memory("SELECT * FROM left_over")


def test_a_forked_process_runs_small_sql_in_a_database_of_its_own() -> None:
    assert in_memory("SELECT 1 AS i")["i"].to_pylist() == [1]
    before = _database.cache_info().currsize
    child = os.fork()
    if child == 0:
        is_right = in_memory("SELECT 7 AS i")["i"].to_pylist() == [7]
        os._exit(0 if is_right and _database.cache_info().currsize == before + 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_side_by_side_keeps_the_order_and_draws_only_a_few_items_ahead() -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for number in range(100):
            drawn += 1
            yield number

    def slow_first(number: int) -> int:
        time.sleep(0.05 if number == 0 else 0)
        return number * 2

    found = []
    for result in side_by_side(slow_first, items(), num_threads=3):
        found.append(result)
        assert drawn <= len(found) + 4
    assert found == [number * 2 for number in range(100)]


def test_side_by_side_raises_what_an_item_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(lambda number: 1 // number, [1, 0, 1]))
