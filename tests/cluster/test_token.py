"""The secret of a Ray: one of its own for a local one, leaving nothing behind; the head's where there is
one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = """
import json, os
import ray
from pix2score.cluster.token import own_token, use_token_if_there_is_one
from ray._raylet import AuthenticationMode, AuthenticationTokenLoader, get_authentication_mode

def now():
    return {
        "token": os.environ.get("RAY_AUTH_TOKEN"),
        "mode": os.environ.get("RAY_AUTH_MODE"),
        "shown": AuthenticationTokenLoader.instance().get_raw_token(ignore_auth_mode=True)
        if AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True) else None,
        "is_on": get_authentication_mode() == AuthenticationMode.TOKEN,
    }

states = [now()]
with own_token():
    states.append(now())
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # as Ray does for a local one
states.append(now())
use_token_if_there_is_one()
states.append(now())
print(json.dumps(states))
"""


def states(home: Path, **settings: str) -> list[dict[str, Any]]:
    """Before, inside, and after a local Ray; and after a head was to be connected to."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**clean, "HOME": str(home), **settings},
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_a_local_ray_has_a_secret_of_its_own_and_leaves_none(tmp_path: Path) -> None:
    before, inside, after, connected = states(tmp_path)
    assert (before["token"], before["shown"], before["is_on"]) == (None, None, False)
    assert inside["token"] == inside["shown"]
    assert len(inside["token"]) >= 32
    assert after == before
    assert connected == before  # no token: none is shown
    assert list(tmp_path.iterdir()) == []


def test_the_token_of_the_user_is_shown_to_a_head(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("b" * 64)
    before, inside, after, connected = states(tmp_path)
    assert inside["shown"] not in (None, "b" * 64)
    assert after == before
    assert (connected["mode"], connected["shown"], connected["is_on"]) == ("token", "b" * 64, True)


def test_what_the_user_set_stays(tmp_path: Path) -> None:
    token = "c" * 64
    _, inside, after, connected = states(tmp_path, RAY_AUTH_TOKEN=token, RAY_AUTH_MODE="disabled")
    assert [state["token"] for state in (inside, after, connected)] == [token] * 3
    assert (connected["mode"], connected["is_on"]) == ("disabled", False)
