"""Stands in for an agent of Ray's scheduler until somebody asks for it, which in most jobs nobody does.

The scheduler waits for its agents' ports before it takes work, and an agent imports for half a second. Run as
``python late_agent.py COMMAND``: the agent's own command. Imports neither Ray nor this package, so that it is
there in some 20 ms.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import sys
from collections.abc import Sequence

RUNTIME_ENV = "--runtime-env-agent-port="
"""A word of the command that only the agent of runtime environments has; the other agent's is for a
dashboard, and has nothing to answer without one."""
_UNUSED_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
"""Which the agent of a dashboard without one says to be -1."""

_LOOK_S = 5.0


def main(command: Sequence[str]) -> None:
    """Say the ports; end with the scheduler, or become the agent at the first connection."""
    place, node, address = (
        _setting(command, name) for name in ("--session-dir=", "--node-id=", "--node-ip-address=")
    )
    if not any(word.startswith(RUNTIME_ENV) for word in command):
        for name in _UNUSED_PORTS:
            _write_port(place, name, node, -1)
        _is_asked([])
        return
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        port = listener.getsockname()[1]
        _write_port(place, "runtime_env_agent_port", node, port)
        is_asked = _is_asked([listener])
    if is_asked:  # the scheduler asks again until the agent answers
        os.execv(command[0], [*(f"{RUNTIME_ENV}{port}" if w.startswith(RUNTIME_ENV) else w for w in command)])


def _setting(command: Sequence[str], name: str) -> str:
    return next(word[len(name) :] for word in command if word.startswith(name))


def _write_port(place: str, name: str, node: str, port: int) -> None:
    """As Ray's ``persist_port``: whoever waits for the file must not find half of it."""
    path = os.path.join(place, f"{name}_{node}")
    with open(f"{path}.new", "w") as file:
        file.write(str(port))
    os.replace(f"{path}.new", path)


def _is_asked(listeners: Sequence[socket.socket]) -> bool:
    """Wait for a connection, or for the end of the scheduler, which holds the other end of our input."""
    is_held = stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode)
    waited_for = [*listeners, *([sys.stdin] if is_held else [])]
    scheduler = os.getppid()
    while os.getppid() == scheduler:
        ready, _, _ = select.select(waited_for, [], [], _LOOK_S)
        if ready:
            return sys.stdin not in ready
    return False


if __name__ == "__main__":
    main(sys.argv[1:])
