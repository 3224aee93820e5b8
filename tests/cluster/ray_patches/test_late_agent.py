"""What stands in for an agent of Ray's: it says the agent's ports, waits, and becomes it when asked."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pix2score.cluster.ray_patches import late_agent

AGENT = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(' '.join(sys.argv[2:]))"
NODE = "ab12"


class Late:
    """A stand-in whose scheduler is this process; its agent writes down what it was given."""

    def __init__(self, place: Path, *words: str) -> None:
        self.place, self.said = place, place / "said"
        common = [f"--session-dir={place}", f"--node-id={NODE}", "--node-ip-address=127.0.0.1"]
        agent = [sys.executable, "-c", AGENT, str(self.said), *common, *words]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", late_agent.__file__, *agent], stdin=subprocess.PIPE
        )

    def port(self, name: str) -> int:
        path = self.place / f"{name}_{NODE}"
        _await(path.exists)
        return int(path.read_text())

    def scheduler_ends(self) -> int:
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(timeout=10)


def _await(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def environments(tmp_path: Path) -> Iterator[Late]:
    late = Late(tmp_path, "--runtime-env-agent-port=0", "--last")
    yield late
    late.process.kill()
    late.process.wait()


def test_the_first_connection_starts_the_agent_at_the_port_that_was_said(environments: Late) -> None:
    port = environments.port("runtime_env_agent_port")
    assert port > 0
    assert not environments.said.exists()
    with contextlib.suppress(ConnectionResetError):  # the scheduler asks again, too
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    assert environments.process.wait(timeout=10) == 0
    assert environments.said.read_text().split()[-2:] == [f"--runtime-env-agent-port={port}", "--last"]


def test_it_ends_with_its_scheduler_and_the_agent_never_started(environments: Late) -> None:
    environments.port("runtime_env_agent_port")
    assert environments.scheduler_ends() == 0
    assert not environments.said.exists()


def test_that_of_a_dashboard_says_that_there_is_none_and_waits(tmp_path: Path) -> None:
    late = Late(tmp_path, "--minimal")
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
    assert [late.port(name) for name in names] == [-1, -1, -1]
    assert late.process.poll() is None
    assert late.scheduler_ends() == 0
    assert not late.said.exists()


def test_without_a_pipe_it_ends_when_its_parent_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parents = iter([7, 7, 1])
    monkeypatch.setattr(late_agent, "_LOOK_S", 0.01)
    monkeypatch.setattr("os.getppid", lambda: next(parents))
    with (tmp_path / "input").open("w+") as no_pipe:
        monkeypatch.setattr("sys.stdin", no_pipe)
        assert not late_agent._is_asked([])
