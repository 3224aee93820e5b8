"""``--resample``: which rows come how often in an epoch, and that answers stay those of the data as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pix2score.errors import ConfigError
from pix2score.heads.binary import BinaryHead
from pix2score.heads.resampling import repeat_factors, resampled
from pix2score.heads.spec import HeadSpec
from pix2score.heads.tags import TagsHead
from pix2score.train.config import TrainConfig, head_and_exponent
from pix2score.train.resample import Resampling, repeated, shuffled_batches, times
from pix2score.train.step.batch import Batch
from pix2score.train.step.collectives import while_all_have
from pix2score.train.step.objective import Objective
from tests.support.torch_helpers import COUNT_HEAD, CPU, HEADS, on_two_workers

FACTORS = (1.0, 1.0, 1.3, 2.6)
PLAN = Resampling(head=COUNT_HEAD, factors=FACTORS, num_rows=0.0)


def rows(number: int, first: int = 0) -> pa.Table:
    """Decoded rows whose bin is their number modulo four; pixels are of no matter here."""
    ids = np.arange(first, first + number)
    return pa.table(
        {
            "pixels": pa.array([b"x"] * number),
            "bookmark_bin": pa.array((ids % 4).astype(np.int16)),
            "bookmark_label": pa.array(ids % 4),
            "sanity_bin": pa.array((ids % 3).astype(np.int16)),
            "sanity_label": pa.array(ids % 3),
            "illust_id": pa.array(ids),
            "page": pa.array(np.zeros(number, np.int32)),
        }
    )


def epoch(tables: list[pa.Table], number: int = 0, seed: int = 0) -> pa.Table:
    return pa.concat_tables(repeated(iter(tables), HEADS, PLAN, seed=seed, epoch=number))


def ids(table: pa.Table) -> Counter[int]:
    return Counter(table.column("illust_id").to_pylist())


def test_rows_come_as_often_as_their_factor_says_on_average_and_never_another_number_of_times() -> None:
    found = ids(epoch([rows(8000)]))
    for k, factor in enumerate(FACTORS):
        number = np.array([found[i] for i in range(k, 8000, 4)])
        assert set(number) <= {int(np.floor(factor)), int(np.ceil(factor))}
        assert number.mean() == pytest.approx(factor, abs=4 * 0.5 / 2000**0.5)


def test_every_epoch_and_seed_draws_anew_and_the_same_one_the_same() -> None:
    first = epoch([rows(400)])
    assert epoch([rows(400)]) == first
    assert ids(epoch([rows(400)], number=1)) != ids(first)
    assert ids(epoch([rows(400)], seed=1)) != ids(first)


def test_two_workers_have_together_the_rows_of_one() -> None:
    alone = ids(epoch([rows(150), rows(150, first=150)]))
    together = ids(epoch([rows(150, first=150)])) + ids(epoch([rows(70), rows(80, first=70)]))
    assert alone == together


def test_pages_of_one_illustration_are_drawn_apart() -> None:
    table = rows(400)
    pages = table.set_column(6, "page", pa.array(np.ones(400, np.int32)))
    half = np.full(400, 1.5)
    assert (times(half, table, 0, 0) != times(half, pages, 0, 0)).any()


def test_copies_teach_the_resampled_head_alone() -> None:
    found = epoch([rows(400)])
    assert found.column("bookmark_bin").null_count == 0
    labelled = found.filter(found.column("sanity_bin").is_valid())
    assert sorted(labelled.column("illust_id").to_pylist()) == list(range(400))
    assert found.column("sanity_label").null_count == found.num_rows - 400


def batches(tables: list[pa.Table], seed: int = 0, buffer_rows: int = 40) -> Iterator[pa.Table]:
    return shuffled_batches(iter(tables), batch_rows=16, buffer_rows=buffer_rows, seed=seed)


@pytest.mark.parametrize("buffer_rows", [1, 40, 10_000])
def test_batches_hold_every_row_once_but_an_incomplete_last_one(buffer_rows: int) -> None:
    parts = [rows(n, first) for n, first in ((7, 0), (90, 7), (1, 97), (62, 98))]
    found = list(batches(parts, buffer_rows=buffer_rows))
    assert [len(table) for table in found] == [16] * 10
    assert ids(pa.concat_tables(found)) == Counter(range(160))
    assert len(list(batches([rows(15)], buffer_rows=buffer_rows))) == 0
    assert len(list(batches([rows(47)], buffer_rows=buffer_rows))) == 2


def test_batches_are_mixed_over_the_buffer_and_come_again_in_the_same_order() -> None:
    parts = [rows(16, first) for first in range(0, 320, 16)]
    first, *_ = found = [table.column("illust_id").to_pylist() for table in batches(parts)]
    assert max(first) > 32
    assert found == [table.column("illust_id").to_pylist() for table in batches(parts)]
    assert found != [table.column("illust_id").to_pylist() for table in batches(parts, seed=1)]


# The answer stays that to the data as it is


def solved_constant(head: HeadSpec, taught: HeadSpec, targets: torch.Tensor, weight: torch.Tensor) -> Any:
    """Outputs of the constant answer that costs least to rows which come so often, through the objective."""
    objective = Objective([head], resampled=taught)
    answer = torch.zeros(1, head.num_outputs, requires_grad=True)
    optimizer = torch.optim.LBFGS([answer], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-9)
    parts = [(targets[i : i + 1], float(weight[i])) for i in range(len(targets))]
    empty = Batch(torch.zeros(1, 1, 1, 3), {}, {})

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        counts = objective.counts(replace(empty, targets={head.name: targets[:1]}))
        losses = [
            objective.losses({head.name: answer}, {head.name: t}, None, empty, counts).sum() * w
            for t, w in parts
        ]
        total = torch.stack(losses).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return answer.detach()[0]


@pytest.mark.parametrize("loss", ["cross_entropy", "ordinal"])
def test_a_head_that_sees_rare_bins_more_often_answers_constant_pictures_with_their_true_shares(
    loss: str,
) -> None:
    head = replace(COUNT_HEAD, loss=loss)
    factors = repeat_factors(head, 1.0)
    taught = resampled(head, [], factors, 100).head
    found = solved_constant(head, taught, torch.arange(4), torch.tensor(factors * head.train_counts))
    np.testing.assert_allclose(found.softmax(0), head.shares, rtol=2e-3)


def test_so_does_a_head_of_yes_and_no() -> None:
    head = BinaryHead(name="liked", column="c", counts=(90, 10))
    factors = repeat_factors(head, 1.0)
    taught = resampled(head, [], factors, 100).head
    weight = torch.tensor(factors * [90, 10])
    found = solved_constant(head, taught, torch.tensor([0, 1]), weight)
    assert found.sigmoid().item() == pytest.approx(0.1, rel=1e-3)


def test_so_does_a_head_of_tags_that_go_together() -> None:
    head = TagsHead(name="t", column="c", tags=("sky", "owl"), counts=(700, 100), num_tagged=1000)
    lists = [[0], [0, 1], [1], []]
    number = np.array([660, 40, 60, 240])
    factors = np.array([1.0, 3.0])
    column = pa.array([tags for tags, n in zip(lists, number, strict=True) for _ in range(n)])
    taught = resampled(head, [column.cast(pa.list_(pa.int16()))], factors, 1000).head
    targets = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0]], dtype=torch.int8)
    found = solved_constant(head, taught, targets, torch.tensor(number * [1, 3, 3, 1]))
    np.testing.assert_allclose(found.sigmoid(), head.prevalences, rtol=5e-3)


def test_the_constant_answer_to_resampled_rows_costs_one() -> None:
    factors = repeat_factors(COUNT_HEAD, 1.0)
    taught = resampled(COUNT_HEAD, [], factors, 100).head
    objective = Objective([COUNT_HEAD], resampled=taught)
    number = factors * COUNT_HEAD.train_counts
    bias = torch.from_numpy(COUNT_HEAD.initial_bias())[None]
    costs = []
    for k in range(4):
        batch = Batch(torch.zeros(1, 1, 1, 3), {"bookmark": torch.tensor([k])}, {})
        counts = objective.counts(batch)
        costs.append(objective.losses({"bookmark": bias}, batch.targets, None, batch, counts).item())
    assert (np.array(costs) * number).sum() / number.sum() == pytest.approx(1, rel=1e-3)


# What is refused


@pytest.mark.parametrize("text", ["bookmark", "bookmark:", ":0.5", "bookmark:x", "b:0", "b:1.5", "b:nan"])
def test_what_is_not_a_head_and_an_exponent_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"resample .*: expected HEAD:EXPONENT, such as bookmark:0.5"):
        TrainConfig(data="d", out="o", resample=text)


def test_the_exponent_stands_behind_the_last_colon() -> None:
    assert head_and_exponent("bookmark:0.5") == ("bookmark", 0.5)


def test_rows_that_are_embedded_once_cannot_come_again() -> None:
    with pytest.raises(ConfigError, match="resample: not with freeze trunk"):
        TrainConfig(data="d", out="o", resample="b:0.5", freeze="trunk", weights="imagenet")


# Two workers


def batches_of_a_worker(rank: int) -> dict[str, Any]:
    """Ids of the batches that one of two workers trains on, and how many it could have."""
    mine = [rows(150, first=150 * rank + start) for start in (0, 300)]
    alone = list(batches([epoch(mine)]))
    together = list(while_all_have(iter(alone), CPU))
    return {"ids": [t.column("illust_id").to_pylist() for t in together], "could": len(alone)}


@pytest.mark.slow
def test_workers_with_unlike_numbers_of_rows_end_an_epoch_together(tmp_path: Path) -> None:
    workers = on_two_workers(batches_of_a_worker, tmp_path)
    could = [worker["could"] for worker in workers]
    assert could[0] != could[1]
    assert [len(worker["ids"]) for worker in workers] == [min(could)] * 2
