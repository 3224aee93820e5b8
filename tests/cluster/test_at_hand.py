"""verify and vacuum on a cluster that is there, and without one as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from pix2score.cluster.at_hand import at_hand
from pix2score.cluster.tasks import RayExecutor
from pix2score.host.executor import LocalThreads
from pix2score.snapshots import verify_keys
from pix2score.snapshots.config import VacuumConfig, VerifyConfig
from pix2score.snapshots.vacuum import vacuum_on
from pix2score.snapshots.verify import verify_on
from tests.support.nights import M1, World, check, keys


def executor_of(config: str, executor: Any) -> dict[str, Any]:
    return {"config": config, "executor": executor}


@pytest.mark.parametrize("address", [None, "", "local"])
def test_without_an_address_there_is_none(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    assert isinstance(at_hand(executor_of)("x")["executor"], LocalThreads)


def test_the_commands_load_no_ray_of_themselves() -> None:
    script = "import jobs.verify, jobs.vacuum, sys; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.usefixtures("ray_session")
def test_vacuum_and_verify_work_in_tasks_of_the_ray_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    monkeypatch.setattr(verify_keys, "PART_ROWS", 10)
    assert isinstance(at_hand(executor_of)("x")["executor"], RayExecutor)
    world = World(str(tmp_path))
    world.night(keys(*range(12)))
    content = {**keys(*range(12)), **{(i, 0): "other" for i in range(8)}}
    world.night(content)
    assert at_hand(vacuum_on)(VacuumConfig(scores=world.scores))["files_compacted"] == 4
    assert (
        at_hand(verify_on)(VerifyConfig(scores=world.scores, catalog=f"{world.place}/catalog"))["rows"] == 12
    )
    check(world, content, M1)
