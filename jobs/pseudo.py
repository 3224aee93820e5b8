"""Make a catalog of labels for another model from what scores are sure of."""

from __future__ import annotations

from pix2score.cli.main import main
from pix2score.pseudo.config import PseudoConfig
from pix2score.pseudo.job import pseudo

if __name__ == "__main__":
    main("pseudo", PseudoConfig, pseudo, __doc__)
