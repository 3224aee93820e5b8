"""Fits the four models of a KPI beside the constant, measures them, and takes the best by validation."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from pix2score.cli.tables import aligned
from pix2score.dataset.card import SPLITS
from pix2score.kpi.forest import fit_forest, leaf_columns, num_threads
from pix2score.kpi.linear import fit_linear, logistic, squared
from pix2score.kpi.measure import MAIN, is_reliable, numbers, numbers_with_intervals
from pix2score.kpi.models import LEAVES, LEAVES_AND_RAW, LINEAR, ONLY_TREES, Model
from pix2score.kpi.table import Table
from pix2score.metrics.formulas import Floats
from pix2score.metrics.intervals import Interval

logger = logging.getLogger(__name__)
HALVES_FROM = 20_000
"""Train rows from which trees and the linear model of their leaves learn from different groups; of fewer,
half of them cost more than that a tree's leaves fit its own rows too well."""
CONSTANT = "constant"


@dataclass(frozen=True, slots=True)
class Fits:
    """The four models, and what they and the constant say of the rows that they did not learn from."""

    models: dict[str, Model]
    val: dict[str, Floats]
    test: dict[str, Floats]


def fit_models(table: Table, seed: int) -> Fits:
    """Fit all on the train split; the validation split chooses penalties and the number of trees."""
    with threadpool_limits(num_threads(table.num("train")), user_api="blas"):
        models = {model.name: model for model in _linear_and_trees(table, seed)}
        models |= {model.name: model for model in _with_leaves(table, seed, models[ONLY_TREES], HALVES_FROM)}
    said = {split: {CONSTANT: _constant(table, split)} for split in SPLITS[1:]}
    for name, model in models.items():
        for split, found in said.items():
            found[name] = model.expected(table.rows_NF[table.splits[split]])
    return Fits(models, said["val"], said["test"])


def _constant(table: Table, split: str) -> Floats:
    """The rate, or the mean, of the train split."""
    part = table.splits["train"]
    return np.full(table.num(split), np.average(table.truth_N[part], weights=table.weight_N[part]))


def _linear_and_trees(table: Table, seed: int) -> list[Model]:
    loss = logistic if table.target == "rate" else squared
    train, val = table.rows("train"), table.rows("val")
    linear = fit_linear(train, val, loss)
    logger.info("linear model fitted on %d rows of %d features", table.num("train"), table.features.width)
    forest = fit_forest(table.target, train, val, seed)
    logger.info("%d trees fitted on %d rows", forest.num_trees(), table.num("train"))
    return [_model(table, LINEAR, linear=linear), _model(table, ONLY_TREES, forest=forest)]


def _with_leaves(table: Table, seed: int, trees: Model, halves_from: int) -> list[Model]:
    learnt_by, forest = "train", trees.forest
    if table.num("train") >= halves_from and min(table.num("first"), table.num("second")) >= halves_from / 4:
        forest = fit_forest(table.target, table.rows("first"), table.rows("val"), seed)
        learnt_by = "second"
        logger.info(
            "leaves: trees from %d rows, weights from %d others", table.num("first"), table.num("second")
        )
    assert forest is not None, "the trees alone are a forest"
    loss = logistic if table.target == "rate" else squared
    raw = [table.rows_NF[table.splits[split]] for split in (learnt_by, "val")]
    leaves = [leaf_columns(forest, rows) for rows in raw]
    found = []
    for name, blocks in (
        (LEAVES, [[one] for one in leaves]),
        (LEAVES_AND_RAW, [list(both) for both in zip(leaves, raw, strict=True)]),
    ):
        linear = fit_linear(table.rows(learnt_by, blocks[0]), table.rows("val", blocks[1]), loss)
        found.append(_model(table, name, linear=linear, forest=forest))
    return found


def _model(table: Table, name: str, **parts: Any) -> Model:
    centre, deviation = table.centre_and_deviation
    return Model(name=name, target=table.target, centre=centre, deviation=deviation, **parts)


def best_by_validation(table: Table, fits: Fits) -> str:
    """Name of the model whose main number is lowest on the validation split."""
    main, found = MAIN[table.target], numbers(table.truth("val"), fits.val)
    best = min(fits.models, key=lambda name: found[name][main])
    if not found[best][main] < found[CONSTANT][main]:
        logger.warning(
            "no model is better than the constant on the validation split (%s %.4f, constant %.4f): these "
            "features say nothing of this KPI",
            main,
            found[best][main],
            found[CONSTANT][main],
        )
    return best


def metrics(table: Table, fits: Fits, best: str) -> dict[str, Any]:
    """All numbers: of the test split with intervals, of the validation split without."""
    val = numbers(table.truth("val"), fits.val)
    test = numbers_with_intervals(table.truth("test"), fits.test, CONSTANT)
    return {
        "target": table.target,
        "main": MAIN[table.target],
        "best": best,
        "reliable": is_reliable(table.truth("test")),
        "rows": {split: table.num(split) for split in SPLITS},
        "groups": {split: len(np.unique(table.group_N[table.splits[split]])) for split in SPLITS},
        "models": {name: {"val": val[name], "test": test[name]} for name in val},
    }


def told(found: dict[str, Any]) -> str:
    """The numbers for a terminal: each of the test split with its interval, the main one of val too."""
    main, models = found["main"], found["models"]
    names = [name for name, value in models[CONSTANT]["test"].items() if not isinstance(value, dict | tuple)]
    names = [name for name in names if not name.startswith(f"{main}_minus")]
    lines = [["model", f"val {main}", *(f"test {name}" for name in names)]]
    for model, of in models.items():
        mark = " (saved)" if model == found["best"] else ""
        numbers_ = [_with_interval(of["test"][name], of["test"]["intervals"][name]) for name in names]
        lines.append([f"{model}{mark}", _short(of["val"][main]), *numbers_])
    return aligned(lines)


def _with_interval(value: float | None, ends: Interval | None) -> str:
    return _short(value) + (f" [{_short(ends[0])}, {_short(ends[1])}]" if ends else "")


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if abs(value) >= 10 else f"{value:.3f}"
