"""The stages of evaluation, without Ray: answers, altered copies of a sample, where heads look."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pix2score.catalog.catalog import Columns
from pix2score.catalog.originals import original_images
from pix2score.errors import ImageFailure
from pix2score.evaluate.alterations import ALTERATIONS, ORIGINAL, thumbnail
from pix2score.evaluate.answers import AnswerRows
from pix2score.evaluate.gather import Evaluation
from pix2score.evaluate.saliency import overlay, saliency
from pix2score.evaluate.sample import Sample, draw_of
from pix2score.evaluate.stages import decode_for_evaluation
from pix2score.host import instructions
from pix2score.metrics.findings import Findings
from pix2score.model.admission import admitted
from pix2score.model.folder import load_model
from pix2score.model.predictor import Predictor
from pix2score.report.evaluation import evaluation_page
from pix2score.storage.arrow import matrix
from tests.support.builders import write_catalog
from tests.support.engines import with_engine_files
from tests.support.models import save_settled
from tests.support.torch_helpers import COUNT_HEAD, HEADS, PREPROCESS, batch, pixels

NUM = 60


def png(image: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return out.getvalue()


def shard_rows(num: int = NUM) -> pa.Table:
    """Rows of a prepared shard, two per group; the last has no label."""
    labels = batch(num, seed=4)
    columns: dict[str, Any] = {
        "illust_id": pa.array(range(num), pa.int64()),
        "page": pa.array([0] * num, pa.int32()),
        "group": [f"g{i // 2}" for i in range(num)],
        "image": [png(image) for image in pixels(num, seed=8, size=48)],
    }
    for head in HEADS:
        truth = labels.targets[head.name].numpy().astype(np.int16)
        truth[-1] = -1
        columns[f"{head.name}_bin"] = pa.array(truth)
        columns[f"{head.name}_label"] = pa.array([None if t < 0 else int(t) for t in truth], pa.int64())
    return pa.table(columns)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_settled(tmp_path_factory.mktemp("saved"))


def answered(place: str, sample: Sample, **shares: float) -> pa.Table:
    rows = decode_for_evaluation(
        shard_rows(), heads=HEADS, preprocesses=[PREPROCESS], ridges={}, sample=sample
    )
    return AnswerRows([place, place], [0, 0], **shares, batch_size=16, device="cpu", num_threads=1)(rows)


@pytest.fixture(scope="module")
def rows(place: str) -> pa.Table:
    """All rows in every sample; the original of each picture is the prepared one, turned."""
    originals = {(i, 0): png(image[::-1]) for i, image in enumerate(pixels(NUM, seed=8, size=48))}
    return answered(place, Sample(shown=1, altered=1, originals=originals), explained=1)


def test_answers_are_the_predictors(place: str, rows: pa.Table) -> None:
    card, weights = load_model(place)
    wanted = Predictor(card, weights, batch_size=4).predict(
        np.stack(
            [
                np.asarray(Image.fromarray(i).resize((32, 32), Image.Resampling.BILINEAR))
                for i in pixels(NUM, seed=8, size=48)
            ]
        )
    )
    for head in HEADS:
        for model in (0, 1):
            np.testing.assert_allclose(
                np.exp(matrix(rows.column(f"{head.name}_outputs_{model}"))),
                wanted.heads[head.name].probs,
                atol=1e-4,
            )


@pytest.mark.skipif(
    not instructions.has_any(instructions.EIGHT_BIT), reason="this CPU has neither VNNI nor AMX"
)
def test_the_first_model_answers_by_the_engine_that_was_admitted_and_others_in_float32(
    tmp_path: Path,
) -> None:
    place = str(with_engine_files(tmp_path / "model"))
    admission = admitted(place, *load_model(place), "int8")
    assert admission
    rows = decode_for_evaluation(
        shard_rows(), heads=HEADS, preprocesses=[PREPROCESS], ridges={}, sample=Sample(shown=0, altered=0)
    )
    settings: dict[str, Any] = {"batch_size": 16, "device": "cpu", "num_threads": 1}
    exact = AnswerRows([place, place], [0, 0], **settings)(rows)
    narrow = AnswerRows([place, place], [0, 0], admission=admission, **settings)(rows)
    for head in HEADS:
        first, second = (f"{head.name}_outputs_{i}" for i in (0, 1))
        assert narrow.column(second).equals(exact.column(second))
        assert not narrow.column(first).equals(exact.column(first))
        moved = np.exp(matrix(narrow.column(first))) - np.exp(matrix(exact.column(first)))
        assert np.abs(moved).mean() < 0.05


def test_altered_copies_are_answered_and_differ(rows: pa.Table) -> None:
    plain = np.exp(matrix(rows.column("bookmark_outputs_0")))
    for name in (*ALTERATIONS, ORIGINAL):
        copies = np.exp(matrix(rows.column(f"bookmark_altered_{name}")))
        assert 1e-4 < np.abs(copies - plain).mean() < 0.3, name


def test_outside_the_sample_rows_carry_nothing_more(place: str) -> None:
    half = answered(place, Sample(shown=0.5, altered=0.25), explained=0.25)
    drawn = np.array([draw_of((i, 0)) for i in range(NUM)])
    assert half.column("thumbnail").is_valid().to_numpy().tolist() == (drawn < 0.5).tolist()
    assert half.column("sanity_altered_jpeg_75").is_valid().to_numpy().tolist() == (drawn < 0.25).tolist()
    assert half.column("sanity_saliency").is_valid().to_numpy().tolist() == (drawn < 0.25).tolist()
    assert half.column(f"sanity_altered_{ORIGINAL}").null_count == NUM
    assert half.column("bookmark_outputs_0").null_count == 0


def test_draws_are_even_and_of_the_key_alone() -> None:
    drawn = np.array([draw_of((i, 0)) for i in range(4000)])
    assert np.histogram(drawn, bins=4, range=(0, 1))[0] == pytest.approx([1000] * 4, rel=0.1)
    assert draw_of((7, 1)) == draw_of((7, 1)) != draw_of((7, 0))


def test_the_evaluation_counts_labelled_rows_and_whole_groups(place: str, rows: pa.Table) -> None:
    evaluation = Evaluation(load_model(place)[0], HEADS)
    for start in range(0, NUM, 25):
        evaluation.add(rows.slice(start, 25))
    found = evaluation.metrics()
    assert found["bookmark"].num_labelled == NUM - 1
    assert found["bookmark"].num_groups == NUM // 2
    assert evaluation.comparison()["bookmark"].verdict == "no difference"
    assert set(evaluation.details()["sanity"].altered) == {*ALTERATIONS, ORIGINAL}


def test_the_page_tells_unreliable_and_missing_heads(place: str, rows: pa.Table) -> None:
    few = rows.slice(0, 30)
    nothing = few.set_column(
        few.column_names.index("sanity_bin"), "sanity_bin", pa.array([-1] * 30, pa.int16())
    )
    evaluation = Evaluation(load_model(place)[0], HEADS)
    evaluation.add(nothing)
    findings = Findings(
        model_version="m",
        dataset_id="d",
        split="test",
        metrics=evaluation.metrics(),
        details=evaluation.details(),
    )
    text = evaluation_page(findings, HEADS, evaluation.sampled()).decode()
    assert "bookmark: only 30 labelled images. These numbers are unreliable." in text
    assert "sanity: no labelled image in this split." in text
    assert "bookmark\n30 images" in text
    assert re.search(r"nll [0-9.]+ \([0-9.]+\)\nece ", text), (
        "one number a line, and the calibration among them"
    )
    assert "ABOVE the bound" in text  # originals turned upside down are not what was prepared


def test_saliency_is_where_the_score_comes_from(place: str) -> None:
    card, weights = load_model(place)
    predictor = Predictor(card, weights, batch_size=4)
    images = pixels(4, seed=3, size=32)
    found = saliency(predictor, COUNT_HEAD, images)
    assert found.shape == (4, 32, 32)
    assert found.min() >= 0
    assert found.max() == pytest.approx(1)
    assert Image.open(io.BytesIO(overlay(images[0], found[0]))).size == (32, 32)
    dark = np.asarray(Image.open(io.BytesIO(overlay(images[0], np.zeros((32, 32), np.float32)))))
    assert dark.mean() < 0.6 * images[0].mean()


def test_a_thumbnail_is_small_and_keeps_its_shape() -> None:
    assert Image.open(io.BytesIO(thumbnail(png(pixels(1, size=400)[0][:, :200])))).size == (80, 160)


def test_originals_come_from_the_catalog_as_it_is_now(tmp_path: Path) -> None:
    place = write_catalog(
        str(tmp_path),
        {"pid": [1, 2, 2, 3], "page": [0, 0, 1, 0], "uri": ["a.png", "b.png", "c.png", "../x.png"]},
    )
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_bytes(name.encode())
    config = {"columns": dict.fromkeys(Columns.__slots__) | {"id": "pid"}, "image_root": ()}  # type: ignore[attr-defined]
    found = original_images(place, config, [(1, 0), (2, 1), (3, 0), (2, 0), (9, 0)])
    assert found[1, 0] == b"a.png"
    assert found[2, 1] == b"c.png"
    codes = {key: value.code for key, value in found.items() if isinstance(value, ImageFailure)}
    assert codes == {(3, 0): "FORBIDDEN", (2, 0): "NOT_FOUND"}
    assert set(original_images(place, config, [(2, 1)])) == {(2, 1)}
    assert original_images(str(tmp_path / "gone"), config, [(1, 0)]) == {}
