"""Where a local Ray keeps its sockets and logs.

A folder that can be written, and whose path is short enough for a socket.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from pix2score.errors import ConfigError

logger = logging.getLogger(__name__)

_VARIABLES = ("RAY_TMPDIR", "TMPDIR")
"""As Ray looks them up."""
_FOLDERS = ("/tmp", "/var/tmp")  # noqa: S108 - Ray's own, and what systems have beside it
_NAME = "ray"
MAX_SOCKET_BYTES = 107
"""Of a path, on Linux."""
_LONGEST = f"/{_NAME}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store_10"


def ray_temp() -> str | None:
    """Ray's folder of temporary files, None for the one that it takes by itself.

    A folder that does not do is passed over with a warning. Raises ``ConfigError`` if none is left.
    """
    problems: list[str] = []
    for name, folder in _candidates():
        problem = _problem(folder)
        if problem is None:
            for line in problems:
                logger.warning("%s; Ray uses %s instead", line, folder)
            return str(Path(folder) / _NAME) if problems or not os.environ.get(name, folder) else None
        problems.append(f"{name} {folder}: {problem}" if name else f"{folder}: {problem}")
    raise ConfigError(f"Ray finds no folder for its sockets ({'; '.join(problems)}); name one by RAY_TMPDIR")


def _candidates() -> Iterator[tuple[str, str]]:
    """(variable, folder)."""
    yield from ((name, os.environ[name]) for name in _VARIABLES if os.environ.get(name))
    yield from (("", folder) for folder in _FOLDERS)


def _problem(folder: str) -> str | None:
    """Why Ray could not live in ``folder``."""
    if not os.path.isabs(folder):
        return "not an absolute path"
    if len(os.fsencode(folder.rstrip("/") + _LONGEST)) > MAX_SOCKET_BYTES:
        return f"too long for a socket's path: {MAX_SOCKET_BYTES - len(_LONGEST)} bytes at most"
    try:
        os.makedirs(folder, exist_ok=True)
        within = os.path.join(folder, _NAME)
        os.makedirs(within, exist_ok=True)
    except OSError as exc:
        return f"{exc.strerror}"
    return None if os.access(within, os.W_OK | os.X_OK) else "cannot be written"
