"""A prediction depends on the image and the model alone, and its columns mean what the schema says.

Shapes: N images, B fixed batch, K bins of a head.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pix2score.errors import ConfigError
from pix2score.heads.bins import mid_ranks
from pix2score.heads.ordered import OrderedHead
from pix2score.images.decode import to_rgb
from pix2score.images.decoder import Decoder
from pix2score.model.network import normalise
from pix2score.model.prediction import Prediction
from pix2score.model.predictor import Predictor
from tests.support.torch_helpers import (
    COUNT_HEAD,
    HEADS,
    LEVEL_HEAD,
    NARROW_DIM,
    PREPROCESS,
    card_and_weights,
    pixels,
    settled_model,
)

BATCH = 4
IMAGES = pixels(2 * BATCH + 3, seed=1)


def predictor_of(batch_size: int = BATCH, **temperatures: float) -> Predictor:
    return Predictor(*card_and_weights(**temperatures), batch_size=batch_size)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return predictor_of()


@pytest.fixture(scope="module")
def alone(predictor: Predictor) -> list[Prediction]:
    """Each image predicted by itself."""
    return [predictor.predict(IMAGES[i : i + 1]) for i in range(len(IMAGES))]


def assert_rows_are(
    found: Prediction, alone: list[Prediction], rows: list[int], embedding_atol: float = 1e-5
) -> None:
    assert found.embedding.shape == (len(rows), NARROW_DIM)
    assert found.finite.tolist() == [True] * len(rows)
    for position, row in enumerate(rows):
        np.testing.assert_allclose(found.embedding[position], alone[row].embedding[0], atol=embedding_atol)
        for name, head in found.heads.items():
            single = alone[row].heads[name]
            np.testing.assert_allclose(head.probs[position], single.probs[0], atol=1e-5)
            np.testing.assert_allclose(head.score[position], single.score[0], atol=1e-5)
            np.testing.assert_allclose(
                head.expected[position], single.expected[0], rtol=1e-4, atol=1e-5 * 2.4e9
            )
            top = np.sort(single.probs[0])[-2:]
            assert top[1] - top[0] < 2e-5 or head.bin[position] == single.bin[0]


def test_images_differ_enough_for_the_tests_below_to_mean_something(alone: list[Prediction]) -> None:
    probs = np.concatenate([p.heads["bookmark"].probs for p in alone])
    assert probs.std(axis=0).max() > 0.02


@pytest.mark.parametrize("num_images", [0, 1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 3])
def test_a_row_does_not_depend_on_how_many_images_there_are(
    predictor: Predictor, alone: list[Prediction], num_images: int
) -> None:
    found = predictor.predict(IMAGES[:num_images])
    assert_rows_are(found, alone, list(range(num_images)))
    for head in HEADS:
        assert found.heads[head.name].probs.shape == (num_images, head.num_bins)
        assert found.heads[head.name].bin.dtype == np.int16
        assert found.heads[head.name].score.dtype == found.heads[head.name].expected.dtype == np.float32


@given(st.lists(st.integers(0, len(IMAGES) - 1), max_size=2 * BATCH + 1))
@settings(max_examples=12)
def test_a_row_does_not_depend_on_order_and_batch_mates(
    predictor: Predictor, alone: list[Prediction], rows: list[int]
) -> None:
    assert_rows_are(predictor.predict(IMAGES[rows]), alone, rows)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_row_does_not_depend_on_the_batch_size(alone: list[Prediction], batch_size: int) -> None:
    # Another shape may take other kernels: embeddings reach 10, a step of their float16 is 0.001 to 0.008
    # there.
    assert_rows_are(
        predictor_of(batch_size).predict(IMAGES), alone, list(range(len(IMAGES))), embedding_atol=2e-4
    )


def test_predictions_are_those_of_a_plain_forward_pass(predictor: Predictor) -> None:
    found, model = predictor.predict(IMAGES), settled_model()
    with torch.inference_mode():
        embedding = model.embed(normalise(torch.from_numpy(IMAGES), PREPROCESS).contiguous())
        # Engines may fall to different steps of float16; what heads say of the very same ones is the same.
        logits = model.answers(torch.from_numpy(found.embedding))
    np.testing.assert_allclose(found.embedding, embedding.numpy(), atol=2e-4, rtol=1e-3)
    for head in HEADS:
        np.testing.assert_allclose(
            found.heads[head.name].probs, logits[head.name].softmax(1).numpy(), atol=1e-5
        )


def test_a_second_pass_gives_the_same_bits(predictor: Predictor) -> None:
    first, second = predictor.predict(IMAGES), predictor.predict(IMAGES)
    assert np.array_equal(first.embedding, second.embedding)
    assert np.array_equal(first.heads["bookmark"].probs, second.heads["bookmark"].probs)


logits_of_rows = st.lists(
    st.lists(st.floats(-200, 200, width=32), min_size=COUNT_HEAD.num_bins, max_size=COUNT_HEAD.num_bins),
    min_size=1,
    max_size=6,
)


@given(logits_of_rows, st.floats(0.2, 10))
@settings(max_examples=200)
def test_probabilities_bin_score_and_expected_obey_their_contracts(
    rows: list[list[float]], temperature: float
) -> None:
    logits = np.array(rows, dtype=np.float32)
    found = COUNT_HEAD.answer(logits, {"temperature": temperature})
    assert found.probs.dtype == np.float32
    np.testing.assert_allclose(found.probs.astype(np.float64).sum(axis=1), 1, atol=1e-6)
    assert np.array_equal(found.bin, found.probs.argmax(axis=1))
    assert ((found.score >= 0) & (found.score <= 1)).all()
    low, high = np.float32(min(COUNT_HEAD.typical or ())), np.float32(max(COUNT_HEAD.typical or ()))
    assert ((found.expected >= low) & (found.expected <= high)).all()


@pytest.mark.parametrize("head", HEADS, ids=lambda h: h.name)
def test_score_and_expected_are_means_under_the_probabilities(head: OrderedHead) -> None:
    logits = np.random.default_rng(0).normal(size=(5, head.num_bins)).astype(np.float32)
    found = head.answer(logits, {"temperature": 1.5})
    weights = np.exp(logits.astype(np.float64) / 1.5)
    probs = weights / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.probs, probs, atol=1e-6)
    np.testing.assert_allclose(found.score, probs @ mid_ranks(head.counts), atol=1e-6)
    np.testing.assert_allclose(found.expected, probs @ np.array(head.typical), rtol=1e-6)


def test_a_sure_prediction_expects_the_typical_value_of_its_bin_and_scores_its_mid_rank() -> None:
    found = COUNT_HEAD.answer(500 * np.eye(4, dtype=np.float32), {})
    assert found.bin.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found.expected, [4, 40, 300, 2.4e9])
    np.testing.assert_allclose(found.score, [0.2, 0.55, 0.8, 0.95], atol=1e-6)


def test_a_head_that_was_never_fitted_falls_back_to_bin_numbers() -> None:
    found = replace(LEVEL_HEAD, counts=None, typical=None).answer(500 * np.eye(3, dtype=np.float32), {})
    np.testing.assert_allclose(found.expected, [0, 1, 2])
    np.testing.assert_allclose(found.score, [1 / 6, 3 / 6, 5 / 6], atol=1e-6)


def test_temperature_of_the_card_is_applied_to_its_head_alone(predictor: Predictor) -> None:
    plain, flat = predictor.predict(IMAGES), predictor_of(bookmark=8.0).predict(IMAGES)
    assert (flat.heads["bookmark"].probs.max(axis=1) < plain.heads["bookmark"].probs.max(axis=1)).all()
    power = plain.heads["bookmark"].probs.astype(np.float64) ** (1 / 8)
    np.testing.assert_allclose(
        flat.heads["bookmark"].probs, power / power.sum(axis=1, keepdims=True), atol=1e-5
    )
    assert np.array_equal(flat.heads["bookmark"].bin, plain.heads["bookmark"].bin)
    assert np.array_equal(flat.heads["sanity"].probs, plain.heads["sanity"].probs)


@pytest.mark.parametrize(
    "name", ["outputs.sanity_logits.bias", "trunk.bn1.running_var", "trunk.conv1.weight"]
)
def test_a_nan_in_the_weights_marks_every_row(name: str) -> None:
    card, weights = card_and_weights()
    weights[name] = weights[name].copy()
    weights[name].ravel()[0] = np.nan
    found = Predictor(card, weights, batch_size=BATCH).predict(IMAGES[:5])
    assert found.finite.tolist() == [False] * 5
    for head in found.heads.values():  # what the caller drops must still fit its columns
        assert np.isfinite(head.probs).all()
        assert np.isfinite(head.expected).all()


def test_an_image_that_overflows_is_marked_and_its_batch_mates_are_as_without_it() -> None:
    card, weights = card_and_weights()
    embedding = Predictor(card, weights, batch_size=BATCH).predict(IMAGES[:BATCH]).embedding
    feature = int((embedding.max(axis=0) / np.median(embedding, axis=0).clip(1e-3)).argmax())
    first, second = np.sort(embedding[:, feature])[::-1][:2]
    weights["outputs.sanity_logits.weight"] = np.zeros_like(weights["outputs.sanity_logits.weight"])
    weights["outputs.sanity_logits.weight"][0, feature] = np.finfo(np.float32).max / ((first + second) / 2)
    fragile = Predictor(card, weights, batch_size=BATCH)
    bad = int(embedding[:, feature].argmax())
    good = [i for i in range(BATCH) if i != bad]
    found, without = fragile.predict(IMAGES[:BATCH]), fragile.predict(IMAGES[good])
    assert [i for i in range(BATCH) if not found.finite[i]] == [bad]
    assert without.finite.all()
    for name, head in found.heads.items():
        np.testing.assert_allclose(head.probs[good], without.heads[name].probs, atol=1e-5)


def test_read_only_pixels_are_taken_without_a_warning_and_left_as_they_were(predictor: Predictor) -> None:
    images = IMAGES.copy()
    images.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.predict(images)
        predictor.predict(np.frombuffer(images.tobytes(), dtype=np.uint8).reshape(images.shape))
    assert np.array_equal(images, IMAGES)


@pytest.mark.parametrize("num_images", [0, 1, 5])
def test_columns_are_exactly_those_of_the_schema(predictor: Predictor, num_images: int) -> None:
    found = predictor.predict(IMAGES[:num_images])
    for head in HEADS:
        columns = head.columns(found.heads[head.name])
        expected = head.fields()
        assert list(columns) == [field.name for field in expected]
        table = pa.table(columns, schema=pa.schema(expected))
        assert [c.type for c in columns.values()] == [field.type for field in expected]
        assert table.num_rows == num_images
        probs = np.array(table[f"{head.name}_probs"].to_pylist(), dtype=np.float32).reshape(
            num_images, head.num_bins
        )
        assert np.array_equal(probs, found.heads[head.name].probs)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(batch_size: int) -> None:
    with pytest.raises(ConfigError, match=f"batch size {batch_size}"):
        predictor_of(batch_size)


def encoded(rgba: npt.NDArray[np.uint8], form: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(rgba).convert("RGBA" if form in ("PNG", "WEBP") else "RGB").save(out, form, **options)
    return out.getvalue()


def test_pixels_of_the_decoding_process_give_the_same_prediction(predictor: Predictor) -> None:
    drawing = (
        np.random.default_rng(3)
        .integers(0, 256, (3, 9, 13, 4), dtype=np.uint8)
        .repeat(9, axis=1)
        .repeat(7, axis=2)
    )
    orientation = Image.Exif()
    orientation[0x0112] = 6
    data = [
        encoded(drawing[0], "PNG"),
        encoded(drawing[1], "JPEG", exif=orientation),
        encoded(drawing[2], "WEBP"),
    ]
    here = np.stack([to_rgb(image, PREPROCESS) for image in data])
    decoder = Decoder(PREPROCESS)
    try:
        there = np.stack([np.frombuffer(decoder(image), dtype=np.uint8).reshape(32, 32, 3) for image in data])
    finally:
        decoder.close()
    assert np.array_equal(here, there)
    a, b = predictor.predict(here), predictor.predict(there)
    assert np.array_equal(a.embedding, b.embedding)
    for name in a.heads:
        assert np.array_equal(a.heads[name].probs, b.heads[name].probs)
