"""pix2score: score millions of illustrations every night, and train the model that does it, on Ray.

``read_scores`` and ``read_embeddings`` open what the last night published, ``read_changes`` says what is new
in it, ``similar`` finds neighbours in it, ``tag_vectors`` computes all probabilities of tags from it,
``Model`` scores single pictures. Everything else is reached by the command ``pix2score``, or
``python -m jobs.…`` in a checkout.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pix2score.errors import ImageFailure as ImageFailure
    from pix2score.errors import Pix2ScoreError as Pix2ScoreError
    from pix2score.model.tag_vectors import tag_vectors as tag_vectors
    from pix2score.serve.model import Answer as Answer
    from pix2score.serve.model import Model as Model
    from pix2score.snapshots.changes import read_changes as read_changes
    from pix2score.snapshots.read import read_embeddings as read_embeddings
    from pix2score.snapshots.read import read_scores as read_scores
    from pix2score.snapshots.similar import similar as similar

__version__ = "0.1.0"
__all__ = [
    "Answer",
    "ImageFailure",
    "Model",
    "Pix2ScoreError",
    "__version__",
    "read_changes",
    "read_embeddings",
    "read_scores",
    "similar",
    "tag_vectors",
]

_MODULES = {
    "Answer": "serve.model",
    "ImageFailure": "errors",
    "Model": "serve.model",
    "Pix2ScoreError": "errors",
    "read_changes": "snapshots.changes",
    "read_embeddings": "snapshots.read",
    "read_scores": "snapshots.read",
    "similar": "snapshots.similar",
    "tag_vectors": "model.tag_vectors",
}


def __getattr__(name: str) -> Any:
    # Loaded on use: a decode child imports this package for Pillow alone.
    if name in _MODULES:
        return getattr(import_module(f"pix2score.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'pix2score' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
