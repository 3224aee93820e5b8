"""How good answers of a ``distribution`` head are: every number as a function of image weights.

Shapes: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pix2score.heads.distribution import DistributionHead
from pix2score.metrics.formulas import Floats, Measure, Numbers, pearson, spearman, weighted_mean
from pix2score.metrics.measures import values
from pix2score.metrics.protocol import Answers
from pix2score.metrics.vote_noise import share_entropy

LEAST_SHARE = 1e-3
"""Of a reference that may answer with nothing, or less: it then costs 6.9 nats a vote."""
OF_CONSTANT = ("nll", "kl", "emd", "mse")


@dataclass(frozen=True, slots=True)
class DistributionAnswers:
    """One head on N labelled images: what it said (``log_probs`` [N, K], calibrated) and what was true."""

    head: DistributionHead
    log_probs: Floats
    shares: Floats
    """Of the votes, [N, K]."""
    votes: Floats

    @classmethod
    def of(cls, answers: Answers) -> DistributionAnswers:
        """The same, known to be a distribution head's."""
        assert isinstance(answers.head, DistributionHead)
        shares = answers.truth[:, :-1].astype(np.float64)
        return cls(answers.head, answers.outputs, shares, answers.label)

    @property
    def probs(self) -> Floats:
        """[N, K]."""
        return np.exp(self.log_probs)


def measures(answers: DistributionAnswers) -> dict[str, Measure]:
    """Correlation of means and of deviations, and the cost of the whole distribution."""
    said, said_std = answers.head.moments(answers.probs)
    true, true_std = answers.head.moments(answers.shares)
    costs = costs_by_image(answers)
    return {
        "pearson": pearson(said, true),
        "spearman": spearman(said, true),
        "std_spearman": spearman(said_std, true_std),
        **{name: weighted_mean(cost) for name, cost in costs.items()},
    }


def costs_by_image(answers: DistributionAnswers) -> dict[str, Floats]:
    """Name -> [N].

    ``nll``: cross-entropy of the votes' shares, nats a vote; ``kl``: what of it is not the votes' own
    entropy; ``emd``: how far shares must be moved, in the unit of the values; ``mse``: of the mean.
    """
    head = answers.head
    cross = -(answers.shares * answers.log_probs).sum(axis=1)
    moved = np.abs((answers.probs - answers.shares).cumsum(axis=1)[:, :-1])
    said, true = head.moments(answers.probs)[0], head.moments(answers.shares)[0]
    return {
        "nll": cross,
        "kl": cross - share_entropy(answers.shares),
        "emd": moved @ np.diff(head.class_values),
        "mse": (said - true) ** 2,
    }


def guess_measures(answers: DistributionAnswers, guess_NK: Floats) -> dict[str, Measure]:
    """The same numbers of a reference that gives shares, which need not be any: cut, and scaled to 1."""
    shares = guess_NK.clip(LEAST_SHARE)
    shares = shares / shares.sum(axis=1, keepdims=True)
    return measures(DistributionAnswers(answers.head, np.log(shares), answers.shares, answers.votes))


def constant_numbers(answers: DistributionAnswers) -> Numbers:
    """Of the train split's mean shares."""
    prior = np.broadcast_to(np.log(answers.head.prior), answers.shares.shape)
    costs = costs_by_image(DistributionAnswers(answers.head, prior, answers.shares, answers.votes))
    functions: Mapping[str, Measure] = {name: weighted_mean(costs[name]) for name in OF_CONSTANT}
    return values(functions, len(prior))
