"""What this CPU multiplies small numbers with, and how one CPU is told from another."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
EIGHT_BIT = ("amx_int8", "avx512_vnni", "avx_vnni")
"""Flags of x86 with sums of products of 8 bits in 32: without them they are added in 16, which overflows."""
HALF = ("amx_bf16", "avx512_bf16")
"""Flags of x86 with sums of products of bfloat16 in float32."""


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Flags of the first processor as Linux names them; none where it does not say."""
    return frozenset(_field("flags").split())


def has_any(flags: tuple[str, ...]) -> bool:
    """Whether this CPU has one of ``flags``."""
    return not cpu_flags().isdisjoint(flags)


def host_kind(versions: Mapping[str, str]) -> str:
    """12 hex digits, equal on hosts whose CPU and whose packages, ``versions``, compute alike."""
    told = [_field("model name"), *sorted(cpu_flags()), *sorted(f"{k} {v}" for k, v in versions.items())]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]


def _field(name: str) -> str:
    """Of the first processor; empty where there is none."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
