"""``python -m jobs.export``: flags in, one JSON summary line out. The work is ``pix2score.export``."""

from __future__ import annotations

from pix2score.command import main
from pix2score.export import ExportConfig, export

if __name__ == "__main__":
    main("export", ExportConfig, export, "Write a model as one file with its preprocessing inside: ONNX, or torch.export as .pt2.")
