"""Boosted trees (LightGBM), and the leaf of each tree that a row falls into, as columns of a linear model.

After He et al. 2014, "Practical Lessons from Predicting Clicks on Ads at Facebook": trees find where a number
breaks, the linear model weighs what they found. Shapes: N rows, F columns, T trees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pix2score.host.cores import num_cores
from pix2score.kpi.linear import Rows

if TYPE_CHECKING:
    import lightgbm

Matrix = npt.NDArray[np.float32]
NUM_LEAVES = 12
"""Of a tree, as He et al. have it."""
ROWS_PER_THREAD = 10_000
MAX_TREES = 500
PATIENCE = 40
"""Trees without a lower validation loss, after which the last good one is the last."""
COLUMNS_PER_TREE = 64
"""Drawn anew for each: on 1,280 columns of 2,909 images trees of 64 erred less on validation (normalised
entropy 0.750) than those of 256 (0.783), in a third of the time."""
PARAMETERS = {
    "num_leaves": NUM_LEAVES,
    "learning_rate": 0.05,
    "min_data_in_leaf": 20,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 30.0,  # in cross-validation by group on 3,345 images 0.746, with 5 0.763
    "max_bin": 63,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
_OBJECTIVES = {"rate": "cross_entropy", "number": "regression"}


def fit_forest(target: str, train: Rows, val: Rows, seed: int) -> lightgbm.Booster:
    """Trees of one dense block for a ``rate`` or a ``number``, as many as the validation split bears."""
    import lightgbm as lgb

    parameters = {
        **PARAMETERS,
        "objective": _OBJECTIVES[target],
        "feature_fraction": min(1.0, COLUMNS_PER_TREE / train.blocks[0].shape[1]),
        "seed": seed,
        "num_threads": num_threads(len(train.truth)),
    }
    learnt = _dataset(lgb, train, parameters)
    held_out = _dataset(lgb, val, parameters, learnt)
    stop = lgb.early_stopping(PATIENCE, verbose=False)
    booster = lgb.train(parameters, learnt, MAX_TREES, valid_sets=[held_out], callbacks=[stop])
    return read_forest(booster.model_to_string(num_iteration=booster.best_iteration))


def num_threads(num_rows: int) -> int:
    """Threads that pay: of few rows a step is so short that threads wait for each other, on a busy machine
    for long (2,909 rows on two cores beside other work: 10 s by one thread, 83 by two)."""
    return min(num_cores(), 1 + num_rows // ROWS_PER_THREAD)


def _dataset(lgb: Any, rows: Rows, parameters: dict[str, Any], of: Any = None) -> Any:
    """Weights of mean 1, so that no parameter depends on the number of impressions."""
    weight = rows.weight / rows.weight.mean()
    return lgb.Dataset(rows.blocks[0], rows.truth, reference=of, weight=weight, params=parameters)


def read_forest(text: str) -> lightgbm.Booster:
    """Trees from LightGBM's own text."""
    import lightgbm as lgb

    return lgb.Booster(model_str=text)


def tree_margins(booster: lightgbm.Booster, rows_NF: Matrix) -> npt.NDArray[np.float64]:
    """[N]: log odds of a rate, or the number."""
    return np.asarray(booster.predict(rows_NF, raw_score=True, num_threads=num_cores()), dtype=np.float64)


def leaf_columns(booster: lightgbm.Booster, rows_NF: Matrix) -> Any:
    """One-hot [N, T * NUM_LEAVES] as a sparse matrix of scipy: a 1 for the leaf of each tree."""
    from scipy.sparse import csr_matrix

    leaves_NT = np.asarray(booster.predict(rows_NF, pred_leaf=True, num_threads=num_cores()), dtype=np.int32)
    num_rows, num_trees = leaves_NT.shape
    columns_NT = leaves_NT + np.arange(num_trees, dtype=np.int32) * NUM_LEAVES
    begins = np.arange(num_rows + 1, dtype=np.int32) * num_trees
    ones = np.ones(leaves_NT.size, np.float32)
    return csr_matrix((ones, columns_NT.ravel(), begins), (num_rows, num_trees * NUM_LEAVES))
