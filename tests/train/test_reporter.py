"""A worker's reports reach the driver from the first worker alone."""

from __future__ import annotations

from typing import Any

import pytest

from pix2score.cluster.progress import Board
from pix2score.train.checkpoint import RunState
from pix2score.train.reporter import Reporter
from pix2score.train.step.fitter import StepResult
from pix2score.train.step.recipe import Recipe
from tests.support.settings import worker_settings
from tests.support.torch_helpers import entry

SETTINGS = worker_settings(recipe=Recipe(total_steps=10), batch_size=2, steps_per_epoch=4)


class Kept(Board):
    """A board that keeps what it gets."""

    def __init__(self) -> None:
        super().__init__(None)
        self.calls: list[tuple[str, Any]] = []

    def add(self, number: int) -> None:
        self.calls.append(("add", number))

    def begin_at(self, number: int) -> None:
        self.calls.append(("begin_at", number))

    def say(self, line: str) -> None:
        self.calls.append(("say", line))

    def note(self, text: str) -> None:
        self.calls.append(("note", text))


@pytest.mark.parametrize(
    ("num_steps", "line"), [(4, "resuming after epoch 1"), (7, "resuming after epoch 1 and 3 steps")]
)
def test_a_resumed_run_says_where_it_goes_on(num_steps: int, line: str) -> None:
    board = Kept()
    Reporter(SETTINGS, board, is_first=True).begin(num_steps, RunState(history=[entry()]))
    assert board.calls == [("begin_at", num_steps), ("say", line)]


def test_a_step_is_counted_with_its_loss_and_a_skipped_one_is_said() -> None:
    board = Kept()
    reporter = Reporter(SETTINGS, board, is_first=True)
    reporter.step(5, StepResult(0.5, False, {"bookmark": 0.5}), "rate 0.001")
    assert board.calls == [("note", "loss 0.500 (bookmark 0.500), rate 0.001"), ("add", 1)]
    reporter.step(6, StepResult(float("nan"), True, {}), "rate 0.001")
    assert board.calls[2] == ("say", "step 6: loss or gradient is not finite, skipped on all workers")


def test_other_workers_than_the_first_report_nothing() -> None:
    board = Kept()
    reporter = Reporter(SETTINGS, board, is_first=False)
    reporter.begin(4, RunState(history=[entry()]))
    reporter.step(5, StepResult(float("nan"), True, {}), "rate 0.001")
    reporter.result(RunState())
    assert board.calls == []


def test_the_steps_fill_epochs_the_last_perhaps_in_part() -> None:
    assert SETTINGS.num_epochs == 3
