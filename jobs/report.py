"""Show the live snapshot of a scores folder as one HTML file: drift, failures, pictures."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.report.config import ReportConfig
from pix2score.report.job import report

if __name__ == "__main__":
    main("report", ReportConfig, report, __doc__)
