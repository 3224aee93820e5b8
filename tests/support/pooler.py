"""PgBouncer before a Postgres server, giving each transaction another session of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

from tests.support.postgres import Server, as_nobody
from tests.support.stores import absent, free_port

SETTINGS = """
[databases]
* = host={home} port={port} user=owner
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = any
pool_mode = transaction
server_round_robin = 1
min_pool_size = 3
default_pool_size = 3
"""


@contextlib.contextmanager
def pooler(server: Server) -> Iterator[str]:
    """Host and port of one; skipped where it is not installed, unless ``PIX2SCORE_SERVERS=required``."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        absent("pgbouncer")
    assert program
    home, own = Path(tempfile.mkdtemp(prefix="pool-", dir="/tmp")), free_port()
    home.chmod(0o755)
    (home / "settings").write_text(SETTINGS.format(home=server.home, port=server.port, own=own))
    log = (home / "log").open("wb")
    process = subprocess.Popen([program, home / "settings"], stdout=log, stderr=log, **as_nobody())
    try:
        _await(process, f"postgresql://owner@127.0.0.1:{own}/postgres", home / "log")
        yield f"127.0.0.1:{own}"
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()
        shutil.rmtree(home)


def _await(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(psycopg.Error):
            psycopg.connect(url).close()
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
