"""What stands below ``staged/``, whatever it is, never stops a night and never gets into a snapshot unless it
is whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.errors import StorageError
from pix2score.nightly.plan import plan_scoring
from pix2score.nightly.publish import Publication
from pix2score.nightly.request import ScoringRequest
from pix2score.snapshots.manifest import live_number
from pix2score.snapshots.pieces import Receipt, staged_receipts
from tests.support.nights import M1, Between, World, check, damage, keys


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(str(tmp_path))


def rows_of(*ids: int, failed: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """Plan rows; those ``failed`` cannot be fetched in this round."""
    return [
        {"illust_id": i, "page": 0, "fingerprint": f"etag:v{i}", "attempts": 0, "fails": i in failed}
        for i in ids
    ]


def stage(world: World, publication: Publication, name: str, rows: list[dict[str, Any]]) -> Receipt:
    """A piece whose rows fail as told, under the fingerprint that the catalog has."""
    marked = [
        {**row, "fingerprint": "etag:NOT_FOUND" if row["fails"] else row["fingerprint"]} for row in rows
    ]
    scored = world.piece
    receipt = scored(publication, name, marked)
    if any(row["fails"] for row in rows):
        receipt = _with_true_fingerprints(world, publication, receipt, rows)
    return receipt


def _with_true_fingerprints(
    world: World, publication: Publication, receipt: Receipt, rows: list[dict[str, Any]]
) -> Receipt:
    from pix2score.snapshots.pieces import write_piece

    folder = world.folder
    table = pa.parquet.read_table(pa.BufferReader(folder.read(receipt.scores.path)))
    told = {row["illust_id"]: row["fingerprint"] for row in rows}
    prints = pa.array([told[i] for i in table["illust_id"].to_pylist()])
    table = table.set_column(
        table.schema.get_field_index("fingerprint"), table.schema.field("fingerprint"), prints
    )
    file = receipt.file("embeddings")
    embeddings = (
        pa.parquet.read_table(pa.BufferReader(folder.read(file.path)))
        if file
        else publication.layout.embeddings.empty_table()
    )
    folder.delete([receipt.path, *(f.path for f in receipt.files)])
    return write_piece(
        folder,
        publication.origin,
        receipt.piece,
        publication.layout,
        table,
        embeddings.cast(publication.layout.embeddings),
    )


def planned_again(world: World, publication: Publication, number: int) -> Publication:
    """The same run after a loss: what it staged is taken up, the rest planned."""
    catalog = open_catalog(f"{world.place}/catalog", Columns())
    request = ScoringRequest(origin=publication.origin, layout=publication.layout, live=publication.live)
    plan = plan_scoring(catalog, world.folder, f"staged/{publication.origin.run}/plan-{number}", request)
    return replace(publication, plan=plan)


@pytest.mark.parametrize("publishes", [True, False])
def test_a_key_that_a_run_staged_twice_has_one_winner(world: World, publishes: bool) -> None:
    """It failed in the first round; a node was lost, and in the next round it was fetched."""
    world.night(keys(100))
    content = keys(100, 1, 2, 3, 4, 5, 6)
    _, run = world.plan(content)
    stage(world, run, "piece-1", rows_of(1, 2, 3, failed=(1,)))
    run = planned_again(world, run, 2)
    assert (run.plan.counts.to_score, run.plan.counts.resumed) == (4, 2)
    stage(world, run, "piece-2", rows_of(1, 4, 5))
    run = planned_again(world, run, 3)
    assert (run.plan.counts.to_score, run.plan.counts.resumed) == (1, 5)
    last = stage(world, run, "piece-3", rows_of(6))
    if publishes:
        world.publish(replace(run, receipts=[last]))
    else:
        world.night({**content, (7, 0): "new"})
        assert world.scored == [(7, 0)]
        content = {**content, (7, 0): "new"}
    check(world, content, M1)


def test_a_piece_with_answers_that_its_run_has_given_before_is_left_out(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Both have an embedding, and a reader who knows a key and a run could not tell them apart."""
    content = keys(1, 2, 3, 4, 5)
    _, run = world.plan(content)
    stage(world, run, "piece-1", rows_of(1, 2, 3))
    stage(world, run, "piece-2", rows_of(3, 4))
    world.night(content)
    assert sorted(world.scored) == sorted(keys(4, 5))
    assert "holds answers that its run has given before" in caplog.text
    check(world, content, M1)


def test_a_piece_of_a_run_that_is_live_already_is_not_taken_for_the_same_key(world: World) -> None:
    content = keys(1, 2, 3)
    _, run = world.plan(content)
    receipts = [stage(world, run, "piece-1", rows_of(1, 2, 3))]
    late = stage(world, run, "piece-2", rows_of(1, 2))
    standing = {path: world.folder.read(path) for path in (late.path, *(file.path for file in late.files))}
    world.publish(replace(run, receipts=receipts))
    world.night({**content, (1, 0): "other"})
    for path, data in standing.items():
        world.folder.publish(path, data, replace=True)
    world.night(
        content
    )  # as it was: the late piece has that very answer, and its first one is listed as dead
    check(world, content, M1)


DAMAGED = keys(1, 2, 3, 4, 5, 6)


@pytest.fixture(scope="module", params=[pytest.param(0, marks=pytest.mark.slow), 1])
def staged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A run that was killed when all was staged, after so many nights."""
    world = World(str(tmp_path_factory.mktemp("world")))
    before = keys(100) if request.param else {}
    if before:
        world.night(before)
    world.night({**before, **DAMAGED}, killed_after=2)
    return world


@pytest.mark.parametrize(
    "how", ["embeddings gone", "scores gone", "cut", "altered", "garbage", "copied", "another run's"]
)
def test_a_damaged_piece_is_scored_again_as_if_it_were_not_there(
    staged: World, tmp_path: Path, how: str
) -> None:
    world = staged.copied_to(str(tmp_path / "world"))
    content = {**(keys(100) if live_number(world.folder) else {}), **DAMAGED}
    damage(world, staged_receipts(world.folder)[0], how)
    world.night(content)
    assert len(world.scored) == (0 if how in ("copied", "another run's") else 3)
    check(world, content, M1)


def test_a_file_that_goes_between_plan_and_commit_is_never_named_by_a_snapshot(world: World) -> None:
    content = keys(1, 2, 3, 4, 5, 6)
    world.night(content, killed_after=1)
    plan, run = world.plan(content)
    run = replace(run, receipts=world.stage(plan, run))
    (taken,) = run.plan.resumed_from
    embeddings = taken.file("embeddings")
    assert embeddings
    with pytest.raises(StorageError, match=rf"{embeddings.path} is missing: not published"):
        world.publish(run, Between(lambda: world.folder.delete([embeddings.path])))
    assert live_number(world.folder) == 0
    world.night(content)
    check(world, content, M1)
