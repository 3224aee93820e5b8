"""The secret that the processes of a Ray show each other: one of its own for a local Ray, the head's for
another."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import Any

import ray

_MODE, _TOKEN, _TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


@contextlib.contextmanager
def own_token() -> Iterator[None]:
    """A Ray that is started inside the block has a secret of its own, in the environment that its processes
    inherit.

    Ray would write one to the user's home: which a job may not have, and where it changes what ``ray start``
    does ever after.
    """
    absent = [
        name for name in (_MODE, _TOKEN) if name not in os.environ
    ]  # Ray itself sets the mode, for good
    if not any(os.environ.get(name) for name in (_TOKEN, _TOKEN_FILE)):
        os.environ[_TOKEN] = secrets.token_hex(32)
        _read_again()
    try:
        yield
    finally:
        for name in absent:
            os.environ.pop(name, None)
        _read_again()


def use_token_if_there_is_one() -> None:
    """A token of ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH`` or ``~/.ray/auth_token`` is shown to the head
    that is connected to.

    ``ray start`` asks for one as soon as such a token is there, while ``ray.init`` with an address shows none
    unless RAY_AUTH_MODE says so (2.60). A head that asks for none takes no notice.
    """
    if _MODE not in os.environ and _has_token():
        os.environ[_MODE] = "token"
        _read_again()


def _has_token() -> bool:
    loader = _of_raylet("AuthenticationTokenLoader")
    try:
        return loader is not None and bool(loader.instance().has_token(ignore_auth_mode=True))
    except Exception:  # an unreadable file: none that could be shown
        return False


def _read_again() -> None:
    """Ray looks at mode and token when it is imported."""
    loader, config = _of_raylet("AuthenticationTokenLoader"), _of_raylet("Config")
    if loader is not None and config is not None:
        loader.instance().reset_cache()
        config.initialize("")


def _of_raylet(name: str) -> Any:
    """None in a Ray that is made otherwise."""
    return getattr(ray._raylet, name, None)
