"""Functions as Ray tasks: results in order, errors as raised, what all calls share sent once; and nights that
are planned and published by ranges of keys on Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from pix2score.cluster.tasks import RayExecutor, _shared
from pix2score.errors import DataError
from pix2score.snapshots.manifest import live
from tests.support.nights import M1, World, check, keys

pytestmark = pytest.mark.usefixtures("ray_session")


def total(numbers: Any, factor: int, note: str | None) -> float:
    """Of one call."""
    if factor < 0:
        raise DataError(f"factor {factor}, {note}")
    return float(numbers.sum() * factor)


def test_results_come_in_order_and_what_all_calls_share_is_sent_once() -> None:
    numbers = np.arange(1000)
    calls = [(numbers, factor, None) for factor in range(5)]
    assert list(RayExecutor().each(total, calls, memory_bytes=2**20)) == [499_500.0 * f for f in range(5)]
    sent = _shared(calls)
    assert len({call[0] for call in sent}) == 1
    assert isinstance(sent[0][0], ray.ObjectRef)
    assert [call[1:] for call in sent] == [call[1:] for call in calls]
    assert _shared(calls[:1]) == calls[:1]


def test_an_error_of_a_task_comes_out_as_it_was_raised() -> None:
    with pytest.raises(DataError, match="factor -1, here"):
        list(RayExecutor().each(total, [(np.ones(1), 1, "here"), (np.ones(1), -1, "here")]))
    assert list(RayExecutor().each(total, [])) == []


def test_nights_by_ranges_run_as_ray_tasks(tmp_path: Path) -> None:
    world = World(str(tmp_path), piece_rows=4, range_rows=8, executor=RayExecutor())
    content = keys(*range(20))
    world.night(content)
    check(world, content, M1)
    changed = {**content, (3, 0): "b", (40, 0): "a"}
    del changed[7, 0]
    world.night(changed)
    check(world, changed, M1)
    counts = live(world.scores).manifest["plan"]
    assert (counts["changed"], counts["new"], counts["removed"]) == (1, 1, 1)
