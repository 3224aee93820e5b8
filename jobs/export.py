"""``python -m jobs.export``: flags in, one JSON summary line out. The work is ``pix2score.serve.export``."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.serve.config import ExportConfig
from pix2score.serve.export import export

if __name__ == "__main__":
    main(
        "export",
        ExportConfig,
        export,
        "Write a model as one file with its preprocessing inside: ONNX, or torch.export as .pt2.",
    )
