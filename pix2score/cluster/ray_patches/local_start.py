"""A Ray of one machine without what a single job has no use for, and one that leaves signals to Python."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pix2score.cluster.ray_patches import late_agent
from pix2score.cluster.ray_patches.lookup import asked, is_plain, replaced

_DAEMONS = ("start_monitor", "start_log_monitor", "start_api_server")
"""Methods of Ray's node: the autoscaler, what copies workers' logs to the terminal, and the dashboard, which
runs even when it is not wanted. A single machine has no use for them, and they cost 2 s of its start and end
(two cores)."""
_AGENTS = ("--dashboard_agent_command", "--runtime_env_agent_command")
"""Settings of Ray's scheduler: two processes that it starts, and waits for before it takes work. They import
for as long as all else of its start takes, and a job without runtime environments never speaks to them."""
_GET_NODE = "ray._private.services:get_node"
_START_PROCESS = "ray._private.services:start_ray_process"
_REGISTERED_WITHIN_S = 10.0
_REGISTERED_POLL_S = 0.02


@contextlib.contextmanager
def quick_node() -> Iterator[None]:
    """Start Ray's node without ``_DAEMONS`` and the dashboard's packages, and see it as soon as it is there.

    Ray has no settings for these. A Ray without these names starts as it does by itself.
    """
    changes: dict[str, Any] = {f"ray._private.node:Node.{name}": _nothing for name in _DAEMONS}
    # Its imports take half a second.
    changes["ray._private.utils:get_dashboard_dependency_error"] = lambda: ImportError("not wanted")
    changes[_GET_NODE] = _once_registered(asked(_GET_NODE))
    changes[_START_PROCESS] = _with_late_agents(asked(_START_PROCESS))
    with replaced(changes):
        yield


def _with_late_agents(start_process: Any) -> Callable[..., Any]:
    """``start_ray_process`` of a scheduler whose agents start when somebody asks for them."""
    late = subprocess.list2cmdline([sys.executable, "-I", "-S", late_agent.__file__])

    def word_of(word: str) -> str:
        flag, _, command = word.partition("=")
        return f"{flag}={late} {command}" if flag in _AGENTS else word

    def started(command: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        return start_process([word_of(word) for word in command], *args, **kwargs)

    return started


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _once_registered(get_node: Any) -> Callable[[str, str], Any]:
    """``get_node`` that waits for the node first."""

    def found(address: str, node_id: str) -> Any:
        _await_node(address, node_id)
        return get_node(address, node_id)

    return found


def _await_node(address: str, node_id: str) -> None:
    """Until the node has registered; Ray itself looks once a second."""
    with contextlib.suppress(Exception):  # then Ray waits, or says what is wrong
        client = asked("ray._raylet:GcsClient")(address=address)
        deadline = time.monotonic() + _REGISTERED_WITHIN_S
        while time.monotonic() < deadline:
            if any(found.hex() == node_id for found in client.get_all_node_info(timeout=1)):
                return
            time.sleep(_REGISTERED_POLL_S)


def python_signals() -> contextlib.AbstractContextManager[None]:
    """Leave signals to Python in a Ray that is connected to inside the block.

    Its C++ handler aborts over SIGTERM, for good.
    """
    return replaced({"ray._private.ray_constants:RAY_DISABLE_FAILURE_SIGNAL_HANDLER": True})


@contextlib.contextmanager
def process_settings(num_slots: int) -> Iterator[None]:
    """Settings of Ray's own processes, in the environment while they start; what is set already stays."""
    settings = {
        # Ray's C++ side writes warnings about its own actors and slots straight to the terminal, where people
        # take them for ours. It announces its level in one line of its own, which is let through: file
        # descriptor 2 is not only Ray's.
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        # A worker that nothing asks for costs 0.5 s of a core for each CPU.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_worker_maximum_startup_concurrency": str(num_slots),
        # Until an agent that has just been asked for answers: ``late_agent``.
        "RAY_agent_manager_retry_interval_ms": "100",
    }
    added = {} if is_plain() else {k: v for k, v in settings.items() if k not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
