"""Outputs of a trunk that stays as it is: each head a linear model of the embeddings, solved, not stepped.

A penalty on the squared weights decides how much a head may learn from so many rows, and no two heads need
the same: ``ProbePath`` tries it from strong to weak, and each head keeps what validation liked best. Loss and
penalty are over embeddings brought to a standard deviation of 1 in every dimension.

Shapes: N rows, D embedding, A outputs of a head.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pix2score.heads.spec import HeadSpec
from pix2score.metrics.protocol import Accumulator
from pix2score.model.network import MultiHeadModel
from pix2score.train.step.batch import Batch, label_mass, noisy_targets
from pix2score.train.step.collectives import sum_over_workers
from pix2score.train.step.fitter import StepResult
from pix2score.train.step.losses import head_losses, multi_head_loss
from pix2score.train.step.losses_pairwise import PAIRWISE
from pix2score.train.step.recipe import Recipe

NUM_STRENGTHS = 13
"""Of the penalty: two for each power of ten between these."""
STRONGEST, WEAKEST = 1e3, 1e-3
"""At the first a head says little more than the constant answer, at the last thousands of rows are learnt by
heart."""
NUM_WORSE = 3
"""A head that has not been better for so many strengths in a row is done."""
ALWAYS_TRIED = 0.1
"""Strengths from here up are tried in any case: under a strong penalty little is learnt, and on a small
validation split chance alone may make that look worse several times."""
MAX_PASSES = 40
"""Of L-BFGS over the rows, for each strength; it begins where the strength before ended."""
_CHUNK_ROWS = 4096
COMPARED_ROWS = 256
"""At once, of a loss that compares each row with every other: its cost grows with their square."""
_DEAD = 1e-6
"""Standard deviation below which a dimension says nothing."""


def strengths(number: int) -> list[float]:
    """So many strengths of the penalty, strongest first."""
    if number == 1:
        return [math.sqrt(STRONGEST * WEAKEST)]
    ratio = (WEAKEST / STRONGEST) ** (1 / (number - 1))
    return [STRONGEST * ratio**i for i in range(number)]


class Probe:
    """Solves heads on this worker's embedded rows, together with all workers: the same outputs on each."""

    def __init__(
        self,
        model: MultiHeadModel,
        rows: Batch,
        heads: Sequence[HeadSpec],
        recipe: Recipe,
        device: torch.device,
        max_passes: int = MAX_PASSES,
    ) -> None:
        """``rows``: embeddings [N, D] where pixels would be, of any precision. Label noise is drawn once."""
        self._model, self._device, self.num_seen, self._max_passes = model, device, 0, max_passes
        """``num_seen``: rows of this worker that were looked at, each as often as it was."""
        self._mean_D, self._scale_D = _moments(rows.images, device)
        targets = {head.name: noisy_targets(rows, head, recipe.noise_of(head)) for head in heads}
        noisy = Batch(rows.pixels_BSSC, targets, {}, rows.others, rows.weights_B)
        size = len(rows.pixels_BSSC)
        self._chunks = [noisy.rows(slice(i, i + _CHUNK_ROWS)) for i in range(0, size, _CHUNK_ROWS)]
        if device.type == "cuda" and 2 * rows.images.nbytes < torch.cuda.mem_get_info(device)[0]:
            self._chunks = [chunk.to(device) for chunk in self._chunks]
        counts = sum_over_workers(
            torch.stack([label_mass(target, rows.weights_B) for target in targets.values()]).to(device)
        )
        self._num_labelled = dict(zip(targets, counts, strict=True))

    def solve(self, heads: Sequence[HeadSpec], strength: float) -> StepResult:
        """Give each head the outputs that cost least at a strength of the penalty, from those that it has.

        A head that ends at a loss that is not finite stays as it is, and the result counts as skipped.
        """
        loss_by_head = {head.name: self._solve_one(head, strength) for head in heads}
        finite = {name: loss for name, loss in loss_by_head.items() if math.isfinite(loss)}
        return StepResult.of(finite, heads, skipped=len(finite) < len(loss_by_head))

    def _solve_one(self, head: HeadSpec, strength: float) -> float:
        layer = output_of(self._model, head)
        weight_AD = (layer.weight.detach() * self._scale_D).requires_grad_()
        bias_A = (layer.bias.detach() + layer.weight.detach() @ self._mean_D).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [weight_AD, bias_A],
            max_iter=self._max_passes,
            tolerance_grad=1e-6,
            tolerance_change=1e-8,
            line_search_fn="strong_wolfe",
        )
        optimizer.step(lambda: self._cost(head, weight_AD, bias_A, strength))  # type: ignore[no-untyped-call]
        with torch.no_grad():
            penalty = 0.5 * strength * weight_AD.square().sum()
            loss = float(self._cost(head, weight_AD, bias_A, strength) - penalty)
            found_AD = weight_AD / self._scale_D
            if math.isfinite(loss):
                layer.weight.copy_(found_AD)
                layer.bias.copy_(bias_A - found_AD @ self._mean_D)
        return loss

    def _cost(self, head: HeadSpec, weight_AD: Tensor, bias_A: Tensor, strength: float) -> Tensor:
        """Loss in units of the constant answer, plus penalty; sets the gradients, where they are on."""
        parameters, wants_gradient = [weight_AD, bias_A], torch.is_grad_enabled()
        total = torch.zeros(1 + sum(p.numel() for p in parameters), device=self._device)
        for chunk in self._pieces(head):
            self.num_seen += len(chunk.pixels_BSSC)
            loss = self._loss(head, chunk.to(self._device), weight_AD, bias_A)
            total[0] += loss.detach()
            if wants_gradient:
                found = torch.autograd.grad(loss, parameters)
                total[1:] += torch.cat([gradient.flatten() for gradient in found])
        sum_over_workers(total)
        if wants_gradient:
            weight_AD.grad = (
                total[1 : 1 + weight_AD.numel()].view_as(weight_AD) + strength * weight_AD.detach()
            )
            bias_A.grad = total[1 + weight_AD.numel() :].clone()
        return total[0] + 0.5 * strength * weight_AD.detach().square().sum()

    def _pieces(self, head: HeadSpec) -> Iterator[Batch]:
        if head.loss_name != PAIRWISE:
            yield from self._chunks
            return
        for chunk in self._chunks:
            for start in range(0, len(chunk.pixels_BSSC), COMPARED_ROWS):
                yield chunk.rows(slice(start, start + COMPARED_ROWS))

    def _loss(self, head: HeadSpec, chunk: Batch, weight_AD: Tensor, bias_A: Tensor) -> Tensor:
        raw_AD = weight_AD / self._scale_D
        outputs_NA = F.linear(chunk.images.float(), raw_AD, bias_A - raw_AD @ self._mean_D)
        of_rows = chunk.by_row({head.name: outputs_NA}, [head])
        sums = multi_head_loss(of_rows, {head.name: chunk.targets[head.name]}, [head], chunk.weights_B)
        return head_losses(sums, self._num_labelled, [head]).sum() / (head.weight or 1.0)


class ProbePath:
    """What each head keeps over the strengths that were tried, strongest first."""

    def __init__(
        self, model: MultiHeadModel, heads: Sequence[HeadSpec], number: int, kept: Mapping[str, float]
    ) -> None:
        """``kept``: the strength of each head whose outputs ``model`` has already; empty to begin anew."""
        self._model, self._heads = model, heads
        self.strengths = strengths(number)
        self.kept = dict(kept)
        """Head -> strength at which its outputs were solved."""
        self._metrics: dict[str, Accumulator] = {}
        self._outputs: dict[str, dict[str, Tensor]] = {}
        if not kept:
            _start_constant(model, heads)

    def know(self, metrics: Sequence[Accumulator]) -> None:
        """Take ``metrics`` as those of the outputs that the model has."""
        self._metrics = {m.head.name: m for m in metrics}
        self._outputs = {head.name: _copied(output_of(self._model, head)) for head in self._heads}

    def open_heads(self, number: int) -> list[HeadSpec]:
        """Heads that may still become better at strength ``number``, from 0."""
        place = {strength: i for i, strength in enumerate(self.strengths)}
        last = {name: place.get(strength, 0) for name, strength in self.kept.items()}
        is_tried = self.strengths[min(number, len(self.strengths) - 1)] >= ALWAYS_TRIED * 0.999
        return [h for h in self._heads if is_tried or number - last.get(h.name, number) <= NUM_WORSE]

    def keep_better(self, metrics: Sequence[Accumulator], number: int) -> list[Accumulator]:
        """Metrics of the better outputs of each head, which the model has then: the new or the kept ones."""
        for m in metrics:
            name, layer = m.head.name, output_of(self._model, m.head)
            old = self._metrics.get(name)
            if old is None or _loss_of(m) < _loss_of(old):
                self._metrics[name], self._outputs[name] = m, _copied(layer)
                self.kept[name] = self.strengths[number]
            else:
                layer.load_state_dict(self._outputs[name])
        return [self._metrics[m.head.name] for m in metrics]


def output_of(model: MultiHeadModel, head: HeadSpec) -> nn.Linear:
    """The layer whose outputs are the head's."""
    layer = model.outputs[f"{head.name}_logits"]
    assert isinstance(layer, nn.Linear)
    return layer


def _loss_of(metrics: Accumulator) -> float:
    """Infinite where validation has no label of the head: it keeps the strongest penalty."""
    loss = metrics.relative_loss() if metrics.num_labelled else math.inf
    return loss if math.isfinite(loss) else math.inf


@torch.no_grad()
def _start_constant(model: MultiHeadModel, heads: Sequence[HeadSpec]) -> None:
    for head in heads:
        layer, bias_A = output_of(model, head), head.initial_bias()
        layer.weight.zero_()
        layer.bias.zero_() if bias_A is None else layer.bias.copy_(torch.from_numpy(bias_A))


def _copied(layer: nn.Linear) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in layer.state_dict().items()}


def _moments(embedding_ND: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension over all workers; 1 where it says nothing."""
    sums = torch.zeros(1 + 2 * embedding_ND.shape[1], dtype=torch.float64)
    for start in range(0, len(embedding_ND), _CHUNK_ROWS):
        x_nD = embedding_ND[start : start + _CHUNK_ROWS].double()
        sums += torch.cat([torch.tensor([len(x_nD)]), x_nD.sum(0), x_nD.square().sum(0)])
    number, *_ = sums = sum_over_workers(sums.to(device))
    total_D, square_D = sums[1:].chunk(2)
    mean_D = total_D / number
    scale_D = (square_D / number - mean_D.square()).clamp(min=0).sqrt()
    return mean_D.float(), torch.where(scale_D < _DEAD, 1.0, scale_D).float()
