"""Write a model as one file with its preprocessing inside: ONNX, or torch.export as .pt2."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.serve.config import ExportConfig
from pix2score.serve.export import export

if __name__ == "__main__":
    main("export", ExportConfig, export, __doc__)
