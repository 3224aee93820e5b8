"""What an evaluation gathers: the threshold that a model saved is the one that its answers are judged at."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import balanced_accuracy_score

from pix2score.evaluate.gather import Evaluation
from pix2score.heads.binary import BinaryHead, probability
from pix2score.images.preprocess import Preprocess
from pix2score.model.card import ModelCard
from pix2score.storage.arrow import fixed_lists

HEAD = BinaryHead(name="liked", column="liked", counts=(70, 30))
CARD = ModelCard(
    backbone="resnet18",
    heads=(HEAD,),
    preprocess=Preprocess(size=32),
    embedding_dim=512,
    temperatures={},
    weights_sha256="0" * 64,
    calibrations={"liked": {"slope": 1.0, "offset": 0.0, "threshold": 0.2}},
)


def test_a_yes_is_judged_at_the_threshold_of_the_models_card_over_all_labelled_rows() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(-1, 1, (200, 1)).astype(np.float32)
    yes = np.where(rng.random(200) < 0.1, -1, rng.random(200) < probability(logit[:, 0])).astype(np.int8)
    rows = pa.table(
        {
            "liked_yes": yes,
            "liked_label": pa.array(yes, mask=yes < 0),
            "liked_outputs_0": fixed_lists(logit),
            "group": pa.array(range(200), pa.int64()),
            "thumbnail": pa.nulls(200, pa.binary()),
        }
    )
    evaluation = Evaluation(CARD, [HEAD])
    for start in (0, 150):
        evaluation.add(rows.slice(start, 150))
    verdict, labelled = evaluation.metrics()["liked"], yes >= 0
    said = probability(logit[labelled, 0].astype(float)) >= 0.2
    wanted = balanced_accuracy_score(yes[labelled] == 1, said)
    assert verdict.numbers["balanced_accuracy"] == pytest.approx(wanted)
    assert verdict.interval["balanced_accuracy"] is not None
    assert verdict.num_labelled == labelled.sum()
