"""A number's score is the share of train rows below it."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest

from pix2score.heads.quantiles import NUM_LEVELS, knots, quantile_of, quantiles_sql


def learnt(values: list[float]) -> list[float]:
    with duckdb.cursor() as connection:
        connection.execute("CREATE TEMP TABLE t (v DOUBLE)")
        connection.executemany("INSERT INTO t VALUES (?)", [[v] for v in values])
        (found,) = connection.execute(f"SELECT {quantiles_sql('v')} FROM t").fetchall()[0]
    return list(found)


def test_learnt_quantiles_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).normal(size=500)
    np.testing.assert_allclose(learnt(values.tolist()), np.quantile(values, np.linspace(0, 1, NUM_LEVELS)))


def test_train_rows_are_spread_evenly_over_scores() -> None:
    values = np.random.default_rng(1).lognormal(size=2000)
    score = quantile_of(values, learnt(values.tolist()))
    assert np.abs(np.sort(score) - np.linspace(0, 1, 2000)).max() < 0.01
    assert quantile_of(np.array([-1.0, 1e9]), learnt(values.tolist())).tolist() == [0, 1]


def test_a_value_that_many_share_stands_at_the_middle_of_their_ranks() -> None:
    quantiles = learnt([0.0] * 500 + np.linspace(1, 2, 500).tolist())
    assert quantile_of(np.array([0.0]), quantiles)[0] == pytest.approx(0.25, abs=0.01)
    values, levels = knots(quantiles)
    assert (np.diff(values) > 0).all() and (np.diff(levels) > 0).all()
