"""Predict a KPI, such as clicks, from stored embeddings: fit four models, or apply the best one."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.kpi.config import KpiConfig
from pix2score.kpi.job import kpi

if __name__ == "__main__":
    main("kpi", KpiConfig, kpi, __doc__)
