"""Ray's authentication token, in so far as Ray has no public way to it."""

from __future__ import annotations

from typing import Any

from pix2score.cluster.ray_patches.lookup import asked


def has_token() -> bool:
    """Whether Ray finds a token that it could show to a head."""
    loader = asked("ray._raylet:AuthenticationTokenLoader")
    try:
        return loader is not None and bool(loader.instance().has_token(ignore_auth_mode=True))
    except Exception:  # an unreadable file: none that could be shown
        return False


def read_token_again() -> None:
    """Have Ray look at mode and token once more: it does so when it is imported."""
    loader, config = asked("ray._raylet:AuthenticationTokenLoader"), asked("ray._raylet:Config")
    if loader is not None and config is not None:
        loader.instance().reset_cache()
        config.initialize("")


def ask_head(address: str) -> None:
    """Connect to a head and go again, if this Ray can. Raises what Ray raises if the head refuses."""
    client: Any = asked("ray._raylet:GcsClient")
    if client is not None:
        client(address=address)
