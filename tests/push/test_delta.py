"""Columns of a Delta table that are not as they were: types that it lacks, nanoseconds."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from pix2score.errors import ConfigError
from tests.push.tables import Delta, pushed
from tests.support.nights import World, keys


def test_a_type_that_delta_does_not_have_is_named(world: World, tmp_path: Path) -> None:
    world.columns = {"clock": lambda key: datetime(2026, 1, 1, 12, key[0]).time()}
    world.night(keys(1, 2), carry=("clock",))
    with pytest.raises(ConfigError, match=r"^column clock is time.*: do not carry it to Delta \(.*\)$"):
        pushed(world, Delta(f"{tmp_path}/table"))


def test_of_nanoseconds_the_microseconds_are_sent(world: World, tmp_path: Path) -> None:
    world.columns = {"at": lambda key: np.datetime64(key[0] * 1_000_000_007, "ns")}
    world.night(keys(1, 2), carry=("at",))
    table = Delta(f"{tmp_path}/table")
    pushed(world, table)
    assert sorted(row["at"] for row in table.rows()) == [
        datetime(1970, 1, 1, 0, 0, second) for second in (1, 2)
    ]
