"""Ray nodes as processes of this machine: a head with a token, and workers that join it."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent


TOKEN = secrets.token_hex(32)


def environment() -> dict[str, str]:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    return {
        **os.environ,
        **token,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ADDRESS": "",
    }


def with_distribution(folder: Path, name: str, version: str) -> Path:
    """``folder``, which, first on a ``PYTHONPATH``, says that this version of a distribution is installed."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def start_node(*words: str, **settings: str) -> subprocess.Popen[bytes]:
    """``ray start …``; ``settings`` are environment variables of its own."""
    command = [
        str(BIN / "ray"),
        "start",
        *words,
        "--block",
        "--disable-usage-stats",
        "--object-store-memory=300000000",
    ]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command, stdout=quiet, stderr=quiet, start_new_session=True, env={**environment(), **settings}
    )
