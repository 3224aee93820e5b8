"""Where planning and merging run: ``host.executor``."""

from __future__ import annotations

from pix2score.host.executor import Executor, LocalThreads

__all__ = ["Executor", "LocalThreads"]
