"""repair: a model that answers NaN answers again, with the same weights."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from pix2score.errors import ConfigError, DataError
from pix2score.model.batchnorm import is_running_statistic
from pix2score.model.folder import load_model, save_model, trunk_weights, weights_digest
from pix2score.model.predictor import Predictor
from pix2score.train.repair import repair
from pix2score.train.repair_config import RepairConfig
from tests.support.chain import Chain
from tests.support.torch_helpers import pixels

pytestmark = pytest.mark.usefixtures("ray_session")


def broken_model(chain: Chain, place: Path, name: str) -> None:
    """A copy of the chain's model in which ``name`` is NaN.

    As other software, or an older version, may have saved it.
    """
    card, weights = load_model(chain.model)
    facts: dict[str, Any] = {"backbone": card.backbone, "heads": card.heads, "preprocess": card.preprocess}
    saved = save_model(
        str(place),
        weights,
        embedding_dim=card.embedding_dim,
        temperatures=card.temperatures,
        about=card.about,
        **facts,
    )
    broken = {n: np.full_like(w, math.nan) if n == name else w for n, w in sorted(weights.items())}
    data, trunk = save(broken), weights_digest(trunk_weights(broken))
    (place / "model.safetensors").write_bytes(data)
    card = replace(saved, weights_sha256=hashlib.sha256(data).hexdigest(), trunk_sha256=trunk)
    (place / "model.json").write_bytes(card.to_json())


def test_statistics_that_are_nan_are_made_anew_and_the_model_answers(chain: Chain, tmp_path: Path) -> None:
    broken_model(chain, tmp_path / "broken", "trunk.layer2.0.bn1.running_var")
    images = pixels(4, size=32)
    assert not Predictor(*load_model(str(tmp_path / "broken")), batch_size=4).predict(images).finite.any()
    found = repair(
        RepairConfig(model=str(tmp_path / "broken"), data=chain.dataset, out=str(tmp_path / "sound"))
    )
    assert (found["num_broken"], found["num_images"] > 64) == (1, True)
    card, weights = load_model(str(tmp_path / "sound"))
    assert card.version == found["model_version"]
    assert Predictor(card, weights, batch_size=4).predict(images).finite.all()
    _, before = load_model(chain.model)
    assert all(np.array_equal(weights[n], before[n]) for n in before if not is_running_statistic(n))


def test_a_weight_that_is_nan_cannot_be_repaired_and_is_named(chain: Chain, tmp_path: Path) -> None:
    broken_model(chain, tmp_path / "broken", "trunk.conv1.0.weight")
    with pytest.raises(DataError, match=r"cannot be repaired: trunk\.conv1\.0\.weight"):
        repair(RepairConfig(model=str(tmp_path / "broken"), data=chain.dataset, out=str(tmp_path / "sound")))
    assert not (tmp_path / "sound" / "model.json").exists()


def test_a_place_that_holds_a_model_is_not_overwritten(chain: Chain) -> None:
    with pytest.raises(DataError, match="holds a model already"):
        repair(RepairConfig(model=chain.model, data=chain.dataset, out=chain.model))
    with pytest.raises(ConfigError, match="num_images 1"):
        RepairConfig(model="m", data="d", out="o", num_images=1)
