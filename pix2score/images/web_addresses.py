"""Addresses that images are fetched from: no name may lead from the open internet into a private network.

A private address (also loopback, link-local and the like) is connected to only if an ``--image-root`` says so
itself: by a host that is the address, or by a name that can be nothing else, as ``images`` or
``images.internal``. What was checked is what is connected to: a name is resolved once for each connection.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp.abc import AbstractResolver, ResolveResult

_PRIVATE_NAME = re.compile(r"[^.]+|.*\.(internal|intranet|local|localhost|lan|home\.arpa)")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PrivateAddressError(Exception):
    """A name leads to an address that no root names."""


def checked_resolver(own_hosts: frozenset[str], inner: AbstractResolver | None) -> AbstractResolver:
    """A resolver for aiohttp that gives only addresses that may be connected to.

    ``own_hosts``: those of the roots; ``inner``: the way to addresses, by default the machine's own. Raises
    ``PrivateAddressError``.
    """
    from aiohttp import ThreadedResolver
    from aiohttp.abc import AbstractResolver

    resolver = inner or ThreadedResolver()

    class Checked(AbstractResolver):
        """Gives addresses that may be connected to, and raises for any other."""

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            found = await resolver.resolve(host, port, family)
            private = [one["host"] for one in found if not is_public(one["host"])]
            if not _PRIVATE_NAME.fullmatch(host) and not own_hosts.issuperset(private):
                raise PrivateAddressError(
                    f"{host} leads to the private address {private[0]}, which is not read; if it is meant, "
                    f"--image-root https://{private[0]} says so"
                )
            return found

        async def close(self) -> None:
            await resolver.close()

    return Checked()


def is_public(address: str) -> bool:
    """Whether an IP address is one of the open internet, and not of a machine, a network or a group of its
    own."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None or ip.teredo is not None:
            return inner is not None and is_public(str(inner))
    return ip.is_global and not ip.is_multicast
