"""Solving the outputs of a frozen trunk: the right solution, the strength that validation likes, together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from pix2score.heads.binary import BinaryHead
from pix2score.heads.ordered import OrderedHead
from pix2score.metrics.kinds import accumulator
from pix2score.metrics.protocol import Accumulator
from pix2score.model.network import MultiHeadModel
from pix2score.train.step.batch import Batch
from pix2score.train.step.probe import Probe, ProbePath, output_of, strengths
from pix2score.train.step.recipe import Recipe
from tests.support.torch_helpers import CPU, on_two_workers

DIM = 512
LIKED = BinaryHead(name="liked", column="liked", counts=(120, 80))
NOISE = BinaryHead(name="noise", column="noise", counts=(100, 100))
HEADS = (LIKED, NOISE)


def rows_of(seed: int, size: int = 200) -> Batch:
    """Embeddings of unlike scales; ``liked`` follows three, ``noise`` none. Some labels are missing."""
    rng = np.random.default_rng(seed)
    x_ND = rng.normal(size=(size, DIM)) * np.geomspace(0.01, 100, DIM) + 3
    x_ND[:, 7] = 5.0
    signal_N = (x_ND[:, :3] - 3) @ (np.array([2.0, -2.0, 1.0]) / np.geomspace(0.01, 100, DIM)[:3])
    truth = {"liked": signal_N + rng.normal(size=size) > 0.3, "noise": rng.random(size) < 0.5}
    bins = {name: np.where(rng.random(size) < 0.1, -1, yes) for name, yes in truth.items()}
    return Batch(
        torch.from_numpy(x_ND).float(),
        {name: torch.from_numpy(b.astype(np.int64)) for name, b in bins.items()},
        {name: torch.from_numpy(np.where(b < 0, np.nan, b)) for name, b in bins.items()},
    )


def model_of() -> MultiHeadModel:
    torch.manual_seed(0)
    return MultiHeadModel("resnet18", HEADS)


def probe_of(model: MultiHeadModel, rows: Batch) -> Probe:
    return Probe(model, rows, HEADS, Recipe(), CPU)


@torch.no_grad()
def metrics_of(model: MultiHeadModel, rows: Batch) -> list[Accumulator]:
    found = [accumulator(head) for head in HEADS]
    for m in found:
        name = m.head.name
        outputs = output_of(model, m.head)(rows.pixels_BSSC)
        m.add(outputs.numpy(), rows.targets[name].numpy(), rows.labels[name].numpy())
    return found


def test_the_solution_is_that_of_logistic_regression_on_standardised_embeddings() -> None:
    rows, model = rows_of(1), model_of()
    ProbePath(model, HEADS, 3, {})
    probe_of(model, rows).solve(HEADS, 0.1)
    labelled = rows.targets["liked"] >= 0
    x_ND, y_N = rows.pixels_BSSC.numpy(), rows.targets["liked"].numpy()
    scale_D = np.where(x_ND.std(0) < 1e-6, 1, x_ND.std(0))
    z_ND = ((x_ND - x_ND.mean(0)) / scale_D)[labelled]
    share = 0.1 * len(z_ND) * LIKED.null_cost
    oracle = LogisticRegression(C=1 / share, tol=1e-8, max_iter=5000).fit(z_ND, y_N[labelled])
    layer = output_of(model, LIKED)
    found = layer(rows.pixels_BSSC[labelled])[:, 0].detach().numpy()
    assert found == pytest.approx(oracle.decision_function(z_ND), abs=5e-3)
    assert abs(layer.weight[0, 7]) < 1e-6  # a dimension that never varies
    assert np.abs(found).max() > 0.5


def test_each_head_keeps_the_strength_that_validation_likes_best() -> None:
    train, val, model = rows_of(1, 400), rows_of(2, 400), model_of()
    path, probe = ProbePath(model, HEADS, 13, {}), probe_of(model, train)
    losses = []
    for number, strength in enumerate(path.strengths):
        probe.solve(path.open_heads(number), strength)
        kept = path.keep_better(metrics_of(model, val), number)
        losses.append([m.relative_loss() for m in kept])
    by_head = np.array(losses)
    assert (np.diff(by_head, axis=0) <= 0).all()  # what is kept never becomes worse
    assert by_head[-1, 0] < 0.9 < by_head[-1, 1]
    assert path.kept["liked"] < path.kept["noise"]
    assert [m.relative_loss() for m in metrics_of(model, val)] == pytest.approx(by_head[-1])
    assert path.open_heads(12) == []


def test_a_head_that_validation_has_no_label_of_stays_near_the_constant_answer() -> None:
    train, val, model = rows_of(1), rows_of(2), model_of()
    val.targets["noise"].fill_(-1)
    path, probe = ProbePath(model, HEADS, 5, {}), probe_of(model, train)
    for number, strength in enumerate(path.strengths):
        probe.solve(path.open_heads(number), strength)
        path.keep_better(metrics_of(model, val), number)
    assert path.kept["noise"] == path.strengths[0] > path.kept["liked"]


def test_a_path_that_goes_on_knows_what_it_has() -> None:
    train, val, model = rows_of(1), rows_of(2), model_of()
    path, probe = ProbePath(model, HEADS, 5, {}), probe_of(model, train)
    for number in range(3):
        probe.solve(path.open_heads(number), path.strengths[number])
        path.keep_better(metrics_of(model, val), number)
    again = ProbePath(model, HEADS, 5, path.kept)
    again.know(metrics_of(model, val))
    before = output_of(model, NOISE).weight.clone()
    nn.init.normal_(output_of(model, NOISE).weight, std=9)
    again.keep_better(metrics_of(model, val), 3)
    assert torch.equal(output_of(model, NOISE).weight, before)
    assert again.kept == path.kept


def test_a_loss_that_is_not_finite_leaves_a_head_as_it_is() -> None:
    rows, model = rows_of(1), model_of()
    ProbePath(model, HEADS, 3, {})
    rows.pixels_BSSC[0, 0] = float("inf")
    result = probe_of(model, rows).solve(HEADS, 1.0)
    assert result.skipped
    assert all(torch.isfinite(p).all() for p in model.outputs.parameters())


def test_strengths_fall_from_strong_to_weak_in_equal_ratios() -> None:
    assert strengths(3) == pytest.approx([1000, 1, 0.001])
    assert strengths(1) == pytest.approx([1])


def _outputs_of_share(rank: int) -> dict[str, Any]:
    model, rows = model_of(), rows_of(1)
    ProbePath(model, HEADS, 3, {})
    mine = rows.rows(slice(0, 70) if rank == 0 else slice(70, 200))
    probe_of(model, mine).solve(HEADS, 0.1)
    return {name: tensor.clone() for name, tensor in model.outputs.state_dict().items()}


@pytest.mark.slow
def test_workers_with_unlike_shares_find_the_outputs_of_one(tmp_path: Path) -> None:
    model = model_of()
    ProbePath(model, HEADS, 3, {})
    probe_of(model, rows_of(1)).solve(HEADS, 0.1)
    first, second = on_two_workers(_outputs_of_share, tmp_path)
    x_ND = rows_of(1).pixels_BSSC
    for head in HEADS:
        name = f"{head.name}_logits"
        assert torch.equal(first[f"{name}.weight"], second[f"{name}.weight"])
        found = x_ND @ first[f"{name}.weight"].T + first[f"{name}.bias"]
        torch.testing.assert_close(found, output_of(model, head)(x_ND), atol=5e-3, rtol=1e-3)


def test_a_loss_that_compares_rows_sees_few_at_once_and_others_all() -> None:
    rows = rows_of(5, 600)
    targets = {"liked": rows.targets["liked"], "order": rows.targets["liked"].clamp(min=0)}
    order = OrderedHead(name="order", column="c", edges=(1,), loss="pairwise", counts=(1, 1), typical=(0, 1))
    heads = (LIKED, order)
    model = MultiHeadModel("resnet18", heads)
    probe = Probe(model, Batch(rows.pixels_BSSC, targets, {}), heads, Recipe(), CPU)
    assert [len(piece.pixels_BSSC) for piece in probe._pieces(order)] == [256, 256, 88]
    assert [len(piece.pixels_BSSC) for piece in probe._pieces(LIKED)] == [600]
    ProbePath(model, heads, 3, {})
    probe.solve(heads, 0.1)
    with torch.no_grad():
        said = output_of(model, order)(rows.pixels_BSSC).diff(dim=1)[:, 0]
    yes, no = said[targets["order"] == 1].numpy(), said[targets["order"] == 0].numpy()
    assert (yes[:, None] > no).mean() > 0.9
