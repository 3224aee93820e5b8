"""An exported head of votes answers as the predictor does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pix2score.serve.graph import ANSWERS
from tests.support.votes import fitted, votes


@pytest.mark.parametrize("quantiles", [None, (-1.0, -1.0, -0.5, 1.0, 1.0), (0.5, 0.5)])
def test_the_graph_answers_as_the_head_does_also_where_many_train_rows_are_equal(
    quantiles: tuple[float, ...] | None,
) -> None:
    head = fitted(votes(300))
    head = replace(head, quantiles=quantiles or head.quantiles)
    logits = np.random.default_rng(0).normal(0, 3, (100, 3)).astype(np.float32)
    wanted = head.answer(logits, {"temperature": 1.7})
    for i, row in enumerate(logits):
        found = ANSWERS["distribution"](head, torch.from_numpy(row), {"temperature": 1.7})
        for name in ("probs", "value", "std", "score"):
            np.testing.assert_allclose(found[name].numpy(), getattr(wanted, name)[i], atol=2e-6)
