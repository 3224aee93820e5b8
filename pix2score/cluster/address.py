"""``RAY_ADDRESS``, where a Ray runs for jobs to use; checked before Ray itself tries for minutes."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass

import ray

from pix2score.cluster.ray_patches.auth import ask_head
from pix2score.errors import ConfigError

LOCAL, AUTO = "local", "auto"
CONNECT_TIMEOUT_S = 10.0
DASHBOARD_PORT = 8265
_BRACKETED = re.compile(r"\[(?P<host>[0-9A-Fa-f:.]+(%\w+)?)\]:(?P<port>\d+)")
_PLAIN = re.compile(r"(?P<host>[\w.-]+):(?P<port>\d+)")
_NO_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _NO_SETTINGS
_SETTINGS_FRAME, _FRAME_HEADER_BYTES = 4, 9


@dataclass(frozen=True, slots=True)
class RayAddress:
    """A head's ``text`` as Ray takes it.

    ``host`` and ``port`` are None for ``auto``: the Ray that was started on this machine.
    """

    text: str
    host: str | None = None
    port: int | None = None


def parse_address(text: str | None) -> RayAddress | None:
    """What ``RAY_ADDRESS`` means; None for a Ray of this job's own: unset, empty, or ``local``.

    Raises ``ConfigError`` for what is no address of a head, with what is meant perhaps.
    """
    text = (text or "").strip()
    if text in ("", LOCAL):
        return None
    if text == AUTO:
        return RayAddress(text)
    found = _BRACKETED.fullmatch(text) or _PLAIN.fullmatch(text)
    if not found or not 0 < int(found["port"]) < 2**16:
        raise ConfigError(f"RAY_ADDRESS={text!r}: {_advice(text)}")
    return RayAddress(text, found["host"], int(found["port"]))


def _advice(text: str) -> str:
    head = "host:port of the head as `ray start` prints it, such as 10.0.0.1:6379"
    if text.startswith(("http://", "https://")):
        return (
            f"that is where `ray job submit --address {text}` submits to; a job itself wants {head}, and "
            "inside `ray job submit` nothing at all"
        )
    if text.startswith("ray://"):
        return f"Ray Data does not work through Ray Client; give {head}, or use `ray job submit`"
    if re.fullmatch(r"[\w.-]+", text):
        return f"the port is missing; expected {head}"
    if text.count(":") > 1 and "[" not in text and "/" not in text:
        return f"expected {head}; an IPv6 address goes in brackets, as in [fd00::2]:6379"
    return f"expected {head}, or auto, or local"


def probe(address: RayAddress) -> None:
    """Raise ``ConfigError`` unless the head of a Ray answers: Ray itself would go on trying for minutes."""
    if address.host is None or address.port is None:
        return
    try:
        with socket.create_connection((address.host, address.port), timeout=CONNECT_TIMEOUT_S) as connection:
            is_ray = _speaks_http2(connection)
    except OSError as exc:  # refused, no such host
        raise ConfigError(f"no Ray answers at RAY_ADDRESS={address.text}: {exc}") from None
    if not is_ray:
        hint = (
            f"; {DASHBOARD_PORT} is the dashboard's port, for `ray job submit`"
            if address.port == DASHBOARD_PORT
            else ""
        )
        raise ConfigError(
            f"no Ray answers at RAY_ADDRESS={address.text}: something else listens there{hint}; give "
            "host:port of the head as `ray start` prints it"
        )


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether a gRPC server, as a head is, answers; one behind TLS is believed."""
    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("", "0", "false"):
        return True
    try:
        connection.sendall(_HTTP2_PREFACE)
        header = connection.recv(_FRAME_HEADER_BYTES, socket.MSG_WAITALL)
    except OSError:  # silent, or hung up
        return False
    return len(header) == _FRAME_HEADER_BYTES and header[3] == _SETTINGS_FRAME


def refuse_without_token(address: RayAddress) -> None:
    """Raise ``ConfigError`` if the head wants a token, and there is none or another."""
    if address.host is None:
        return
    try:
        ask_head(address.text)
    except ray.exceptions.AuthenticationError:
        raise ConfigError(
            f"the Ray at RAY_ADDRESS={address.text} wants its token: copy the head's ~/.ray/auth_token here, "
            "or set RAY_AUTH_TOKEN"
        ) from None
    except ray.exceptions.RpcError as exc:
        raise ConfigError(
            f"no Ray answers at RAY_ADDRESS={address.text}: {' '.join(str(exc).split())[:200]}"
        ) from None
