"""Numbers of a comparison, against direct computations on rows that are drawn here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pix2score.compare.config import CONSTANT, RIDGE
from pix2score.compare.measuring import ANSWERS, Measured, in_one_order, kept_share
from pix2score.compare.numbers import head_results, verdict_of
from pix2score.errors import DataError
from pix2score.heads.preference import PreferenceHead
from pix2score.metrics.formulas import spearman
from pix2score.metrics.intervals import MAX_ROWS, Interval, resamples
from pix2score.metrics.protocol import Answers
from pix2score.storage.arrow import fixed_lists
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from tests.metrics.answers import answers_of
from tests.support.torch_helpers import COUNT_HEAD

NUM, GROUPS = 240, 40
RIDGE_COLUMN = f"ridge_{COUNT_HEAD.name}"


def drawn(seed: int, signal: float, num: int = NUM) -> Answers:
    """Answers of a model; labels and groups are the same for every ``seed``."""
    truth, own = answers_of(num, seed=1, groups=GROUPS), answers_of(num, seed=100 + seed)
    logits = own.outputs - own.outputs.mean()
    logits[np.arange(num), own.truth] -= 2.0
    logits[np.arange(num), truth.truth] += signal
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return Answers(truth.head, log_probs, truth.truth, truth.label, truth.group)


def kept(place: Path, answers: Answers, **more: Any) -> Measured:
    """``answers`` as a measured model leaves them."""
    name = answers.head.name
    columns = {
        "group": answers.group,
        answers.head.target_field().name: pa.array(answers.truth, pa.int16()),
        f"{name}_label": answers.label,
        f"{name}_outputs_0": fixed_lists(answers.outputs.astype(np.float32)),
    }
    folder = Folder(str(place))
    folder.publish(ANSWERS, parquet_bytes(pa.table({**columns, **more})))
    return Measured(folder, (answers.head,), {name: {}}, {})


def runs_of(place: Path, **signals: float) -> dict[str, list[Measured]]:
    """Name -> models of two seeds that know the truth so well."""
    return {
        name: [
            kept(place / f"{name}-{seed}", drawn(seed + 10 * number, signal), **{RIDGE_COLUMN: ridge()})
            for seed in (0, 1)
        ]
        for number, (name, signal) in enumerate(signals.items())
    }


def ridge() -> pa.Array:
    """Guesses that are right within a bin or so."""
    truth = drawn(0, 0.0).truth
    return fixed_lists((truth + np.random.default_rng(5).normal(size=NUM))[:, None].astype(np.float32))


def score_of(model: Measured) -> Any:
    """The main number of one model as a function of image weights, without the code under test."""
    rows = model.answers(COUNT_HEAD.name)
    return spearman(np.exp(rows.outputs) @ COUNT_HEAD.ranks, rows.label)


def test_a_paired_difference_is_that_of_the_means_over_seeds_on_the_same_redrawn_groups(
    tmp_path: Path,
) -> None:
    runs = runs_of(tmp_path, weak=0.6, strong=1.6)
    found = head_results(COUNT_HEAD.name, runs, "weak")
    ours, theirs = ([score_of(model) for model in runs[name]] for name in ("strong", "weak"))
    once, weights = np.ones(NUM), resamples(drawn(0, 0.0).group)

    def mean(measures: Any, w: Any) -> float:
        return float(np.mean([measure(w) for measure in measures]))

    strong, difference = found["strong"], found["strong"].difference
    assert difference is not None
    assert strong.mean == pytest.approx(mean(ours, once))
    assert strong.by_seed == pytest.approx([measure(once) for measure in ours])
    assert strong.deviation == pytest.approx(np.std([measure(once) for measure in ours], ddof=1))
    alone = np.quantile([mean(ours, w) for w in weights], (0.025, 0.975))
    assert strong.interval == pytest.approx(tuple(alone))
    paired = np.quantile([mean(ours, w) - mean(theirs, w) for w in weights], (0.025, 0.975))
    assert difference.value == pytest.approx(mean(ours, once) - mean(theirs, once))
    assert difference.interval == pytest.approx(tuple(paired))
    error = sum(np.var([m(once) for m in run], ddof=1) / 2 for run in (ours, theirs)) ** 0.5
    assert difference.seed_error == pytest.approx(error)
    assert difference.verdict == "better"
    assert head_results(COUNT_HEAD.name, runs, "strong")["weak"].difference.verdict == "worse"  # type: ignore[union-attr]


def test_the_first_run_is_not_compared_and_a_copy_of_it_is_not_told_apart(tmp_path: Path) -> None:
    runs = {"first": [kept(tmp_path / "a", drawn(0, 1.0))], "copy": [kept(tmp_path / "b", drawn(0, 1.0))]}
    found = head_results(COUNT_HEAD.name, runs, "first")
    assert found["first"].difference is None
    copy = found["copy"].difference
    assert copy is not None
    assert (copy.value, copy.interval, copy.seed_error) == (0, (0, 0), None)
    assert copy.verdict == "not told apart"
    assert found["first"].deviation is None


def test_ridge_and_constant_stand_beside_the_runs(tmp_path: Path) -> None:
    found = head_results(COUNT_HEAD.name, runs_of(tmp_path, only=1.6), "only")
    assert list(found) == ["only", RIDGE, CONSTANT]
    guess = np.asarray(ridge().flatten())
    truth = drawn(0, 0.0)
    assert found[RIDGE].mean == pytest.approx(spearman(guess, truth.label)(np.ones(NUM)))
    assert found[RIDGE].difference is not None
    assert found[RIDGE].loss is None
    assert (found[CONSTANT].mean, found[CONSTANT].loss) == (None, 1.0)
    only = found["only"].loss
    assert only is not None
    assert 0 < only < 1


def test_of_too_few_images_nothing_is_concluded(tmp_path: Path) -> None:
    runs = {
        name: [kept(tmp_path / name, drawn(seed, signal, num=40))]
        for seed, (name, signal) in enumerate({"a": 0.5, "b": 3.0}.items())
    }
    found = head_results(COUNT_HEAD.name, runs, "a")["b"]
    assert found.interval is None
    assert found.difference is not None
    assert (found.difference.verdict, found.difference.interval) == ("too few labels", None)


def test_a_run_without_a_model_leaves_the_others_their_numbers(tmp_path: Path) -> None:
    runs = {"first": [], "second": [kept(tmp_path / "a", drawn(0, 1.0))]}
    found = head_results(COUNT_HEAD.name, runs, "first")
    assert found["second"].mean is not None
    assert found["second"].difference is None


def test_answers_to_other_images_are_refused(tmp_path: Path) -> None:
    runs = {"a": [kept(tmp_path / "a", drawn(0, 1.0))], "b": [kept(tmp_path / "b", drawn(0, 1.0, num=200))]}
    with pytest.raises(DataError, match="holds answers to other images"):
        head_results(COUNT_HEAD.name, runs, "a")


@pytest.mark.parametrize(
    ("difference", "interval", "seed_error", "verdict"),
    [
        (0.1, Interval(0.05, 0.15), None, "better"),
        (-0.1, Interval(-0.15, -0.05), 0.01, "worse"),
        (0.1, Interval(-0.01, 0.2), None, "not told apart"),
        (0.1, Interval(0.05, 0.15), 0.06, "not told apart"),
        (0.1, None, None, "not told apart"),
    ],
)
def test_better_is_more_than_other_images_and_other_seeds_would_make(
    difference: float, interval: Interval | None, seed_error: float | None, verdict: str
) -> None:
    assert verdict_of(difference, interval, seed_error) == verdict


def test_of_a_large_split_as_many_answers_are_kept_as_give_intervals() -> None:
    assert kept_share(MAX_ROWS // 2, [COUNT_HEAD]) == 1
    assert kept_share(4 * MAX_ROWS, [COUNT_HEAD]) == pytest.approx(0.25)


def test_answers_are_kept_in_one_order_also_where_an_image_leads_several_sets() -> None:
    head = PreferenceHead(name="liked", sets=4, pairs=4)
    ranks, key = pa.array([[1, 2], [2, 1], [1, 1], [1, 2]], head.target_field().type), pa.array([7, 7, 7, 3])
    rows = pa.table({"illust_id": key, "page": pa.array([0, 0, 0, 1]), head.target_field().name: ranks})
    first = in_one_order(rows, [head])
    for order in ([3, 1, 0, 2], [2, 0, 1, 3]):
        assert in_one_order(rows.take(order), [head]).equals(first)
    assert first.column("illust_id").to_pylist() == [3, 7, 7, 7]
    assert first.column_names == rows.column_names
