"""Epochs of a run: their sums, their ranks, and what a checkpoint keeps of them."""

from __future__ import annotations

import io

import torch

from pix2score.train.checkpoint import EpochSums, RunState, parse_state, run_state
from pix2score.train.history import WORST, rank_value
from pix2score.train.step.fitter import StepResult
from tests.support.torch_helpers import entry


def test_a_lower_rank_is_better_whichever_way_the_metric_goes() -> None:
    good, bad = entry(spearman=0.5, nll=1.0), entry(spearman=0.3, nll=1.2)
    for metric in ("spearman", "nll"):
        assert rank_value(good, f"bookmark.{metric}") < rank_value(bad, f"bookmark.{metric}")
    assert rank_value(good, "val_loss") == 0.9


def test_a_metric_that_is_missing_or_not_finite_ranks_last() -> None:
    for number in (None, float("nan"), float("inf")):
        assert rank_value(entry(nll=number), "bookmark.nll") == WORST
    assert rank_value(entry(), "bookmark.nll") == WORST


def test_skipped_steps_are_counted_and_add_no_loss() -> None:
    sums = EpochSums()
    sums.add(StepResult(0.5, False, {"bookmark": 0.5}))
    sums.add(StepResult(float("nan"), True, {"bookmark": float("nan")}))
    sums.add(StepResult(0.25, False, {"bookmark": 0.25}))
    assert sums == EpochSums(loss=0.75, loss_by_head={"bookmark": 0.75}, num_good=2, num_skipped=1)


def test_a_run_comes_back_from_its_checkpoint_as_it_was() -> None:
    run = RunState(history=[entry(spearman=0.5)], sums=EpochSums(loss=2.0, num_good=3), curve=[{"step": 1.0}])
    data = io.BytesIO()
    torch.save({"fitter": {}, "run": run.to_dict(), "embedding_dim": 512}, data)
    assert run_state(parse_state(data.getvalue())) == run
