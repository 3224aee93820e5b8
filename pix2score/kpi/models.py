"""The four models of a KPI, and the folder that holds the best of them.

    kpi.json              what it is: features, target, scale, quantiles, the snapshot it was fitted on;
                          written last, it makes the folder a model
    linear.safetensors    mean and deviation of the features, weights of the linear model, if it has one
    trees.txt             LightGBM's own text, if it has trees

Nothing is pickled; a file that was altered is refused. Shapes: N rows, F features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from pix2score.errors import DataError
from pix2score.heads.quantiles import quantile_of
from pix2score.kpi.features import Features, Matrix, Scale, features_from_dict
from pix2score.kpi.forest import leaf_columns, read_forest, tree_margins
from pix2score.kpi.label_rows import Target
from pix2score.kpi.linear import Linear, margins, probability
from pix2score.metrics.formulas import Floats
from pix2score.storage.folder import Folder

if TYPE_CHECKING:
    import lightgbm

FORMAT = 1
CARD, WEIGHTS, TREES = "kpi.json", "linear.safetensors", "trees.txt"
LINEAR, ONLY_TREES, LEAVES, LEAVES_AND_RAW = "linear", "trees", "leaves", "leaves_and_raw"
MODELS = (LINEAR, ONLY_TREES, LEAVES, LEAVES_AND_RAW)


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """One fitted model: what it says of standardised features."""

    name: str
    target: Target
    centre: float = 0.0
    deviation: float = 1.0
    """Of a number in the train split: its unit of learning."""
    linear: Linear | None = None
    forest: lightgbm.Booster | None = None

    def expected(self, rows_NF: Matrix) -> Floats:
        """[N]: the expected KPI, in its own unit."""
        margin_N = self._margins(rows_NF)
        return probability(margin_N) if self.target == "rate" else self.centre + self.deviation * margin_N

    def _margins(self, rows_NF: Matrix) -> Floats:
        if self.forest is None:
            assert self.linear is not None, "a model without trees is linear"
            return margins([rows_NF], self.linear)
        if self.linear is None:
            return tree_margins(self.forest, rows_NF)
        leaves = leaf_columns(self.forest, rows_NF)
        return margins([leaves, rows_NF] if self.name == LEAVES_AND_RAW else [leaves], self.linear)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A model with all that applying it takes."""

    model: Model
    features: Features
    scale: Scale
    quantiles: Floats
    """[101], ascending: of what it expects of the rows that it did not learn from."""
    model_version: str
    """Of the snapshot that it was fitted on."""
    about: dict[str, Any] = field(default_factory=dict)

    def answer(self, rows_NF: Matrix) -> tuple[Floats, Floats]:
        """Of features as they are: expected KPI, and its place in 0..1 among held-out rows; changes
        ``rows_NF``."""
        self.scale.apply(rows_NF)
        expected_N = self.model.expected(rows_NF)
        return expected_N, quantile_of(expected_N, self.quantiles.tolist())


def save(folder: Folder, fitted: Fitted) -> str:
    """Write the files of a model, the card last; return its version."""
    model = fitted.model
    tensors: dict[str, npt.NDArray[Any]] = {
        "mean": fitted.scale.mean,
        "deviation": fitted.scale.deviation,
        "quantiles": fitted.quantiles,
    }
    if model.linear is not None:
        tensors |= {"weight": model.linear.weight, "bias": np.array([model.linear.bias])}
    files = {WEIGHTS: save_tensors({name: np.ascontiguousarray(t) for name, t in sorted(tensors.items())})}
    if model.forest is not None:
        files[TREES] = model.forest.model_to_string().encode()
    for path, data in files.items():
        folder.publish(path, data, replace=True)
    card = _card(fitted, {path: hashlib.sha256(data).hexdigest() for path, data in files.items()})
    content = {"format": FORMAT, "kpi_version": _version(card), **card, "about": fitted.about}
    folder.publish(CARD, json.dumps(content, indent=1, ensure_ascii=False).encode(), replace=True)
    return _version(card)


def _card(fitted: Fitted, sha256: Mapping[str, str]) -> dict[str, Any]:
    """All that decides what it expects."""
    model = fitted.model
    return {
        "model": model.name,
        "target": model.target,
        "centre": model.centre,
        "deviation": model.deviation,
        "penalty": model.linear.penalty if model.linear else None,
        "features": fitted.features.to_dict(),
        "fitted_on_model": fitted.model_version,
        "sha256": dict(sha256),
    }


def _version(card: Mapping[str, Any]) -> str:
    text = json.dumps(card, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def load(place: str) -> tuple[Fitted, str]:
    """The model at ``place`` and its version. Raises ``DataError`` if it is none, or was altered."""
    folder = Folder(place)
    try:
        content = json.loads(folder.read(CARD))
        if content["format"] != FORMAT:
            raise DataError(f"{place}/{CARD} has format {content['format']}; this version reads {FORMAT}")
        card = {k: v for k, v in content.items() if k not in ("format", "kpi_version", "about")}
        if _version(card) != content["kpi_version"]:
            raise DataError(f"{place}/{CARD} was altered: it is not version {content['kpi_version']}")
        files = {path: _checked(folder, path, digest) for path, digest in card["sha256"].items()}
        return _fitted(card, files, content["about"]), content["kpi_version"]
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{place} is not a fitted KPI: no {CARD} there; jobs.kpi --out makes one") from None
    except (ValueError, KeyError, TypeError, AttributeError, SafetensorError) as exc:
        raise DataError(f"{place}/{CARD} is not the card of a fitted KPI: {exc!r}") from None


def _checked(folder: Folder, path: str, digest: str) -> bytes:
    try:
        data = folder.read(path)
    except FileNotFoundError:
        raise DataError(f"{folder.full(path)} is missing") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise DataError(f"{folder.full(path)} was altered: its sha256 is not that of {CARD}")
    return data


def _fitted(card: Mapping[str, Any], files: Mapping[str, bytes], about: dict[str, Any]) -> Fitted:
    tensors: dict[str, npt.NDArray[Any]] = load_tensors(files[WEIGHTS])
    has_weights = "weight" in tensors
    model = Model(
        name=card["model"],
        target=card["target"],
        centre=card["centre"],
        deviation=card["deviation"],
        linear=Linear(tensors["weight"], float(tensors["bias"][0]), card["penalty"]) if has_weights else None,
        forest=read_forest(files[TREES].decode()) if TREES in files else None,
    )
    return Fitted(
        model=model,
        features=features_from_dict(card["features"]),
        scale=Scale(tensors["mean"], tensors["deviation"]),
        quantiles=tensors["quantiles"],
        model_version=card["fitted_on_model"],
        about=about,
    )
