"""An error of ours that a worker raises comes out as itself, with what the run had to tell; a constructor's
error is no lost node."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.data.datasource import Datasource, ReadTask

from pix2score.cli.summary import recorded
from pix2score.cluster.session import session
from pix2score.cluster.sink import Staging, is_system_failure
from pix2score.cluster.tasks import on_cluster
from pix2score.errors import DataError, JobFailed
from pix2score.storage.folder import Folder

pytestmark = pytest.mark.usefixtures("ray_session")
TEXT = "the model was replaced while it was read"
PATH = "runs/r1/summary.json"


def raise_ours(*_: Any) -> Any:
    raise DataError(TEXT)


def raise_theirs(*_: Any) -> Any:
    raise ZeroDivisionError("a constructor divides")


class Source(Datasource):  # type: ignore[misc]
    """One read task, which fails."""

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        def read() -> Iterable[pa.Table]:
            raise_ours()
            yield pa.table({"id": [1]})

        return [ReadTask(read, ray.data.block.BlockMetadata(None, None, None, None))]


class Ours:
    """An actor that cannot be made."""

    def __init__(self) -> None:
        raise_ours()

    def __call__(self, batch: pa.Table) -> pa.Table:
        return batch


class Theirs(Ours):
    """Another, whose error nobody foresaw."""

    def __init__(self) -> None:
        raise_theirs()


def rows() -> ray.data.Dataset:
    return ray.data.range(10)


def staged(
    dataset: ray.data.Dataset, write: Callable[[str, pa.Table], int] = lambda piece, table: table.num_rows
) -> None:
    list(Staging(dataset, write, 100, prefix="p").receipts())


def by_actors(stage: type) -> ray.data.Dataset:
    return rows().map_batches(
        stage, batch_format="pyarrow", compute=ray.data.ActorPoolStrategy(size=1), num_cpus=0.5
    )


PLACES: dict[str, Callable[[], Any]] = {
    "read task": lambda: staged(ray.data.read_datasource(Source())),
    "map call": lambda: staged(rows().map_batches(raise_ours, batch_format="pyarrow")),
    "constructor of an actor": lambda: staged(by_actors(Ours)),
    "write task": lambda: staged(rows(), raise_ours),
    "planning task": lambda: on_cluster(raise_ours),
}


def failed_run(out: Path, work: Callable[[], Any]) -> BaseException:
    """What comes out of a job that had planned three rows."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011, SIM117 - whatever it is
        with session(), recorded(Folder(str(out)), PATH, {"job": "score", "run": "r1"}) as summary:
            summary["planned"] = 3
            work()
    return caught.value


@pytest.mark.parametrize(
    "place",
    [pytest.param(place, marks=pytest.mark.slow if "actor" in place else ()) for place in PLACES],
)
def test_our_own_error_comes_out_of_a_worker_as_itself_with_the_account_of_the_run(
    place: str, tmp_path: Path
) -> None:
    error = failed_run(tmp_path, PLACES[place])
    assert type(error) is DataError
    assert str(error) == TEXT
    report = JobFailed.of(error, {}).report()
    assert (report["run"], report["planned"], report["error"], report["message"], report["exit_code"]) == (
        "r1",
        3,
        "DataError",
        TEXT,
        2,
    )
    assert json.loads((tmp_path / PATH).read_text()) == report


@pytest.mark.slow
def test_what_a_constructor_raises_is_an_error_and_no_lost_node(tmp_path: Path) -> None:
    error = failed_run(tmp_path, lambda: staged(by_actors(Theirs)))
    assert not is_system_failure(error)
    report = JobFailed.of(error, {}).report()
    assert report["exit_code"] == 1
    assert "a constructor divides" in report["message"]
    assert json.loads((tmp_path / PATH).read_text())["planned"] == 3


@ray.remote(max_restarts=0, max_task_retries=0)
class Mortal:
    """An actor whose process can end."""

    def end(self) -> None:
        import os

        os._exit(1)


def test_an_actor_whose_process_ended_is_a_lost_part() -> None:
    actor = Mortal.remote()  # type: ignore[attr-defined]
    with pytest.raises(ray.exceptions.RayActorError) as caught:
        ray.get(actor.end.remote())
    assert is_system_failure(caught.value)
