"""How easily a head is led to another answer: counted on a sample, told in the details and on the page."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from pix2score.evaluate.adversarial import Adversary
from pix2score.evaluate.gather import Evaluation
from pix2score.evaluate.sample import Sample, draw_of
from pix2score.heads.aims import aims_of
from pix2score.metrics.findings import ADVERSARIAL_REACH, Findings
from pix2score.model.folder import load_model
from pix2score.model.network import MultiHeadModel, weights_of
from pix2score.model.predictor import Predictor
from pix2score.report.evaluation import evaluation_page
from tests.evaluate.test_stages import NUM, answered
from tests.support.every_head import FITTED
from tests.support.models import save_settled
from tests.support.torch_helpers import HEADS, card_of, pixels, settled_model


def predictor_of(model: MultiHeadModel, heads: Any = HEADS) -> Predictor:
    return Predictor(card_of(model, heads), weights_of(model), batch_size=8, engine="torch")


@torch.no_grad()
def steep(model: MultiHeadModel, factor: float) -> MultiHeadModel:
    """The same decisions by ``factor`` times the outputs: as sure as it gets, or hardly."""
    for output in model.outputs.values():
        assert isinstance(output, nn.Linear)
        output.weight *= factor
        output.bias *= factor
    return model


def test_every_kind_of_head_is_counted_by_its_own_decision() -> None:
    heads, images = tuple(FITTED.values()), pixels(8, seed=5)
    predictor = predictor_of(settled_model(heads), heads)  # type: ignore[arg-type]
    found = Adversary(predictor).changed(images)
    assert found.keys() == {head.name for head in heads}
    for changed in found.values():
        assert (changed.shape, changed.dtype) == ((8,), np.dtype(bool))
    assert sum(changed.mean() for changed in found.values()) > 0.5


def test_more_is_led_away_by_the_gradient_than_by_noise_of_the_same_size() -> None:
    predictor, images = predictor_of(settled_model()), pixels(32, seed=5)
    sign = np.random.default_rng(0).choice([-ADVERSARIAL_REACH, ADVERSARIAL_REACH], images.shape)
    noisy = (images.astype(int) + sign).clip(0, 255).astype(np.uint8)
    before, after = (predictor.predict(shown).heads["bookmark"] for shown in (images, noisy))
    by_noise = aims_of(HEADS[0]).changed(before, after).mean()
    by_gradient = Adversary(predictor).changed(images)["bookmark"].mean()
    assert by_gradient > by_noise + 0.1


def test_a_model_that_is_sure_of_everything_is_no_harder_to_lead() -> None:
    images = pixels(32, seed=5)
    counts = [
        Adversary(predictor_of(steep(settled_model(), factor))).changed(images)["bookmark"].sum()
        for factor in (1, 10_000)
    ]
    assert counts[0] == counts[1] > 0


def test_when_time_is_over_the_first_batches_are_told_and_the_rest_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    adversary = Adversary(predictor_of(settled_model()), most_s=1e-9)
    found = adversary.changed(pixels(10, seed=5))
    assert {name: len(changed) for name, changed in found.items()} == {"bookmark": 8, "sanity": 0}
    adversary.changed(pixels(1))
    assert [record.message for record in caplog.records if "time is over" in record.message] == [
        "adversarial: time is over, so fewer images are tried; --adversarial 0 tries none"
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_settled(tmp_path_factory.mktemp("saved"))


def evaluated(place: str, rows: pa.Table) -> tuple[Findings, Evaluation]:
    evaluation = Evaluation(load_model(place)[0], HEADS)
    evaluation.add(rows.slice(0, 20))
    evaluation.add(rows.slice(20))
    findings = Findings(
        model_version="m",
        dataset_id="d",
        split="test",
        metrics=evaluation.metrics(),
        details=evaluation.details(),
    )
    return findings, evaluation


def test_the_share_of_the_sample_is_in_the_details_and_on_the_page(place: str) -> None:
    rows = answered(place, Sample(shown=1), adversarial=0.5)
    tried = [draw_of((i, 0)) < 0.5 for i in range(NUM)]
    column = rows.column("bookmark_adversarial")
    assert column.is_valid().to_pylist() == tried
    findings, evaluation = evaluated(place, rows)
    found = json.loads(json.dumps(findings.details["bookmark"].to_dict()))["adversarial"]
    assert found == {"images": sum(tried), "changed": pytest.approx(np.mean(column.drop_null().to_pylist()))}
    page = evaluation_page(findings, HEADS, evaluation.sampled()).decode()
    assert f"{found['changed']:.0%} of {sum(tried)} images are answered otherwise" in page


def test_with_no_image_asked_for_it_is_left_out(place: str) -> None:
    rows = answered(place, Sample(shown=1))
    assert not [name for name in rows.column_names if "adversarial" in name]
    findings, evaluation = evaluated(place, rows)
    assert "adversarial" not in findings.details["bookmark"].to_dict()
    page = evaluation_page(findings, HEADS, evaluation.sampled())
    assert b"answered otherwise" not in page
