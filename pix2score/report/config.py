"""Settings of ``jobs.report``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Settings of ``jobs.report``."""

    scores: str
    """Scores folder; its live snapshot is reported."""
    out: str
    """HTML file to write, local or s3://bucket/key."""
