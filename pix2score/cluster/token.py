"""The secret that processes of a Ray show each other: a local Ray's own, or that of the head."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator

from pix2score.cluster.ray_patches.auth import has_token, read_token_again

_MODE, _TOKEN, _TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


@contextlib.contextmanager
def own_token() -> Iterator[None]:
    """Give a Ray that is started inside the block a secret of its own, which its processes inherit.

    Ray would write one to the user's home: which a job may not have, and where it changes what ``ray start``
    does ever after.
    """
    # Ray itself sets the mode, for good.
    absent = [name for name in (_MODE, _TOKEN) if name not in os.environ]
    if not any(os.environ.get(name) for name in (_TOKEN, _TOKEN_FILE)):
        os.environ[_TOKEN] = secrets.token_hex(32)
        read_token_again()
    try:
        yield
    finally:
        for name in absent:
            os.environ.pop(name, None)
        read_token_again()


def use_token_if_there_is_one() -> None:
    """Show the head that is connected to a token, if this user has one where Ray looks for it.

    ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH`` or ``~/.ray/auth_token``. ``ray start`` asks for
    one as soon as such a token is there, while ``ray.init`` with an address shows none unless RAY_AUTH_MODE
    says so (2.60). A head that asks for none takes no notice.
    """
    if _MODE not in os.environ and has_token():
        os.environ[_MODE] = "token"
        read_token_again()
