"""Numbers told apart by a column are those of the rows that have the value."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score

from pix2score.evaluate.column_parts import Parts
from pix2score.evaluate.gather import Evaluation
from pix2score.evaluate.strata import Strata
from pix2score.evaluate.texts import by_text
from pix2score.heads.binary import BinaryHead, probability
from pix2score.heads.ordered import OrderedHead
from pix2score.metrics.findings import Findings
from pix2score.metrics.parts import ByColumn
from pix2score.model.card import ModelCard
from pix2score.report.evaluation import evaluation_page
from pix2score.storage.arrow import fixed_lists
from pix2score.storage.sql import in_memory, numbered
from tests.support.torch_helpers import COUNT_HEAD, NARROW, PREPROCESS

LIKED = BinaryHead(name="liked", column="c", counts=(70, 30), positive=("good",))
HEADS: tuple[OrderedHead, BinaryHead] = (COUNT_HEAD, LIKED)
THRESHOLD = 0.35
CARD = ModelCard(
    backbone=NARROW,
    heads=HEADS,
    preprocess=PREPROCESS,
    embedding_dim=4,
    temperatures={"bookmark": 1.0},
    weights_sha256="0" * 64,
    calibrations={"liked": {"slope": 1.0, "offset": 0.0, "threshold": THRESHOLD}},
)
NAMES = ("sd", "mj", "flux", "(none)")
SIZES = (200, 90, 25, 5)
NUM = sum(SIZES)


def part_of() -> npt.NDArray[np.int8]:
    """The part of each row, mixed."""
    return np.random.default_rng(1).permutation(np.repeat(np.arange(4), SIZES)).astype(np.int8)


def rows() -> pa.Table:
    """Answers to ``NUM`` images, better for some parts than for others; a tenth has no label."""
    rng, part = np.random.default_rng(0), part_of()
    truth, liked = rng.integers(0, 4, NUM), rng.integers(0, 2, NUM)
    logits = rng.normal(size=(NUM, 4))
    logits[np.arange(NUM), truth] += 3 - part
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    odds = (2 * liked - 1) * (2 - 0.6 * part) + rng.normal(size=NUM) + part
    missing = np.arange(NUM) % 10 == 0
    return pa.table(
        {
            "illust_id": pa.array(range(NUM), pa.int64()),
            "page": pa.array([0] * NUM, pa.int32()),
            "group": pa.array(np.arange(NUM) // 3, pa.int64()),
            "bookmark_bin": pa.array(np.where(missing, -1, truth).astype(np.int16)),
            "bookmark_label": pa.array(np.where(missing, 0, 10.0**truth), pa.float64(), mask=missing),
            "bookmark_outputs_0": fixed_lists(log_probs.astype(np.float32)),
            LIKED.target_field().name: pa.array(np.where(missing, -1, liked).astype(np.int8)),
            "liked_label": pa.array(liked, LIKED.label_type([]), mask=missing),
            "liked_outputs_0": fixed_lists(odds.astype(np.float32)[:, None]),
            "ridge_liked": fixed_lists(rng.random((NUM, 1)).astype(np.float32)),
            "thumbnail": pa.nulls(NUM, pa.binary()),
        }
    )


def strata(part: npt.NDArray[np.int8] | None = None) -> Strata:
    keys = numbered(rows(), "illust_id", "page")
    found = in_memory("SELECT hash(illust_id, page) AS h FROM keys ORDER BY position", keys=keys)
    hashes = found.column("h").to_numpy()
    order, numbers = np.argsort(hashes), part_of() if part is None else part
    return Strata("generator", Parts(NAMES, "Its 3 values."), hashes[order], numbers[order])


def evaluated(table: pa.Table, **settings: Any) -> Evaluation:
    evaluation = Evaluation(CARD, HEADS, **settings)
    for start in range(0, table.num_rows, 64):
        evaluation.add(table.slice(start, 64))
    return evaluation


@pytest.fixture(scope="module")
def by() -> ByColumn:
    (found,) = evaluated(rows(), strata=[strata()]).by()
    return found


def test_each_values_numbers_are_those_of_an_evaluation_of_its_rows_alone(by: ByColumn) -> None:
    assert [part.value for part in by.parts] == list(NAMES)
    for i, part in enumerate(by.parts[:2]):
        alone = evaluated(rows().filter(pa.array(part_of() == i))).metrics()
        for name, verdict in alone.items():
            found = part.metrics[name]
            assert found.numbers == pytest.approx(verdict.numbers, nan_ok=True)
            assert (found.constant, found.ridge) == (verdict.constant, verdict.ridge)
            assert found.interval == verdict.interval
            assert found.interval["nll"] is not None
            assert {n: found.notes[n] for n in verdict.notes} == verdict.notes


def test_rows_of_the_values_add_up_to_all_of_them(by: ByColumn) -> None:
    whole = evaluated(rows()).metrics()
    assert [part.num_rows for part in by.parts] == list(SIZES)
    for name, verdict in whole.items():
        labelled = [part.metrics[name].num_labelled for part in by.parts]
        assert sum(labelled) == verdict.num_labelled == NUM * 9 // 10
        means = [part.metrics[name].numbers["accuracy"] for part in by.parts]
        assert np.average(means, weights=labelled) == pytest.approx(verdict.numbers["accuracy"])  # type: ignore[arg-type]


def test_strata_change_nothing_of_the_whole() -> None:
    plain, told = evaluated(rows()), evaluated(rows(), strata=[strata(), strata()])
    assert told.metrics() == plain.metrics()
    assert len(told.by()) == 2
    assert plain.by() == ()


def test_a_binary_heads_numbers_of_a_source_are_sklearns(by: ByColumn) -> None:
    table, part = rows(), part_of()
    labelled = np.asarray(table.column(LIKED.target_field().name)) >= 0
    for i, found in enumerate(by.parts[:2]):
        chosen = (part == i) & labelled
        yes = np.asarray(table.column(LIKED.target_field().name))[chosen]
        said = probability(np.asarray(table.column("liked_outputs_0").to_pylist())[chosen, 0])
        numbers = {**found.metrics["liked"].numbers, **found.metrics["liked"].notes}
        assert numbers["ap"] == pytest.approx(average_precision_score(yes, said))
        assert numbers["accuracy"] == pytest.approx(accuracy_score(yes, said >= 0.5))
        assert numbers["accuracy_at_threshold"] == pytest.approx(accuracy_score(yes, said >= THRESHOLD))
        assert numbers["share_yes"] == pytest.approx(yes.mean())
        reached = [balanced_accuracy_score(yes, said >= t) for t in [*said, 2.0]]
        at_best = balanced_accuracy_score(yes, said >= numbers["best_threshold"])
        assert at_best == pytest.approx(max(reached))
        assert numbers["balanced_accuracy_at_best_threshold"] == pytest.approx(at_best)
        right = accuracy_score(yes, said >= numbers["best_threshold"])
        assert numbers["accuracy_at_best_threshold"] == pytest.approx(right)
    first, second = (p.metrics["liked"].notes["best_threshold"] for p in by.parts[:2])
    assert second > first  # its odds were drawn higher: what suits one source does not suit the other


def test_fewer_than_thirty_labelled_images_are_unreliable_and_without_an_interval(by: ByColumn) -> None:
    for part in by.parts[2:]:
        for verdict in part.metrics.values():
            assert 0 < verdict.num_labelled < 30
            assert not verdict.reliable
            assert not verdict.interval
    assert "best_threshold" not in by.parts[3].metrics["liked"].notes
    labelled, part = np.arange(NUM) % 10 > 0, np.full(NUM, 2, np.int8)
    part[np.flatnonzero(labelled)[:30]], part[np.flatnonzero(labelled)[30:59]] = 0, 1
    (found,) = evaluated(rows(), strata=[strata(part)]).by()
    verdicts = [each.metrics["liked"] for each in found.parts[:2]]
    assert [verdict.num_labelled for verdict in verdicts] == [30, 29]
    assert [verdict.reliable for verdict in verdicts] == [True, False]


def test_terminal_page_and_file_tell_every_value_beside_the_whole(by: ByColumn) -> None:
    evaluation = evaluated(rows(), strata=[strata()])
    findings = Findings(
        model_version="m",
        dataset_id="d",
        split="test",
        metrics=evaluation.metrics(),
        details=evaluation.details(),
        by=(by,),
    )
    header, *lines = by_text(HEADS, findings.metrics, by).splitlines()
    assert header.split()[:5] == ["bookmark", "images", "spearman", "95", "%"]
    assert [line.split()[0] for line in lines[:5]] == ["all", *NAMES]
    assert [" (few) " in line for line in lines[:5]] == [False, False, False, True, True]
    page = evaluation_page(findings, HEADS, None).decode()
    assert "<h2>By generator</h2>" in page
    for words in ("Its 3 values.", 'data-name="best threshold"', "fewer than 30 labelled", "Dashed: all"):
        assert words in page
    auc = by.parts[1].metrics["liked"].numbers["auc"]
    assert f"{auc:.3f} [" in page
    more = json.loads(json.dumps(findings.more()))
    values = more["by"]["generator"]["values"]
    assert [value["value"] for value in values] == list(NAMES)
    assert values[1]["metrics"]["liked"]["auc"] == auc
    assert values[1]["metrics"]["liked"]["best_threshold"] > 0


def test_a_value_without_any_label_is_told_as_such() -> None:
    table, name = rows(), LIKED.target_field().name
    known = np.where(part_of() == 1, -1, table.column(name).to_numpy()).astype(np.int8)
    table = table.set_column(table.column_names.index(name), name, pa.array(known))
    evaluation = evaluated(table, strata=[strata()])
    (found,) = evaluation.by()
    assert found.parts[1].metrics["liked"].num_labelled == 0
    assert found.to_dict()["values"][1]["metrics"]["liked"] == {"num_labelled": 0, "reliable": False}
    assert re.search(r"\nmj +0 +- +- ", by_text([LIKED], evaluation.metrics(), found))
