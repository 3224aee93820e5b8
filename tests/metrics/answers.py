"""Answers drawn at random, for the tests of numbers about them."""

from __future__ import annotations

import numpy as np

from pix2score.heads.ordered import OrderedHead
from pix2score.metrics.accumulate import OrderedAccumulator
from pix2score.metrics.protocol import Answers
from tests.support.torch_helpers import COUNT_HEAD


def answers_of(
    num: int, seed: int = 0, head: OrderedHead = COUNT_HEAD, signal: float = 2.0, groups: int = 10**9
) -> Answers:
    """Answers that know something: the true bin's logit is raised by ``signal``."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, head.num_bins, num)
    logits = rng.normal(size=(num, head.num_bins))
    logits[np.arange(num), truth] += signal
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    label = truth + rng.integers(0, 3, num) / 4  # with ties
    return Answers(head, log_probs, truth, label, rng.integers(0, groups, num))


def totals_of(answers: Answers) -> OrderedAccumulator:
    """The sums over the same images."""
    assert isinstance(answers.head, OrderedHead)
    totals = OrderedAccumulator(answers.head)
    totals.add(answers.outputs, answers.truth, answers.label)
    return totals
