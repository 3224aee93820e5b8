"""S10: a night whose answers moved does not go live unseen, and costs nothing when it is let through."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pix2score import read_scores
from pix2score.catalog.expressions import Expression
from pix2score.errors import LimitError
from pix2score.nightly import cuts
from pix2score.nightly.gate import DriftGate
from pix2score.nightly.publish import publish_night
from pix2score.snapshots.drift import MIN_ROWS, psi
from pix2score.snapshots.manifest import live, live_number, numbers
from pix2score.snapshots.pieces import Receipt, staged_receipts, write_piece
from pix2score.snapshots.snapshot import Snapshot
from tests.support.builders import HEADS, Here, Key, embeddings_table, scores_table
from tests.support.nights import FACTS, M1, M2, Content, World, code_of

NUM = 400
WHOLE: Content = {(number, 0): "v1" for number in range(NUM)}
BOOKMARK = HEADS[0]


@dataclass
class ScoringWorld(World):
    """Nights whose ``bookmark_score`` is what ``says`` makes of the id, as a share of all."""

    piece_rows: int = 100
    says: Callable[[float], float] = lambda share: share**2

    def piece(self, publication: Any, name: str, rows: list[dict[str, Any]]) -> Receipt:
        keys: list[Key] = [(row["illust_id"], row["page"]) for row in rows]
        codes = [code_of(row["fingerprint"].removeprefix("etag:")) for row in rows]
        failed = [key for key, code in zip(keys, codes, strict=True) if code]
        self.scored += keys
        scores = scores_table(keys, publication.origin.run, failed, publication.layout)
        said = [None if key in failed else min(1, self.says(int(key[0]) / NUM)) for key in keys]
        names = {
            "bookmark_score": pa.array(said, pa.float32()),
            "error_code": pa.array(codes, pa.string()),
            "fingerprint": pa.array([row["fingerprint"] for row in rows]),
        }
        for column, values in names.items():
            scores = scores.set_column(scores.schema.get_field_index(column), column, values)
        scores = scores.cast(publication.layout.scores)
        embeddings = embeddings_table([key for key in keys if key not in failed], publication.layout)
        return write_piece(self.folder, publication.origin, name, publication.layout, scores, embeddings)

    def gated(
        self, content: Content, model: str = M1, gate: DriftGate | None = None, **options: Any
    ) -> Snapshot:
        """A whole night through ``gate``."""
        plan, publication = self.plan(content, model, **options)
        publication = self.with_rest(replace(publication, receipts=self.stage(plan, publication)))
        return publish_night(publication, FACTS, Here(), gate or DriftGate(0.25))

    def histogram(self) -> Any:
        rows = read_scores(self.scores).to_table()
        return BOOKMARK.histogram(rows.filter(pa.compute.equal(rows.column("status"), "ok")))


def permuted(share: float) -> float:
    return 1 - share**2


@pytest.fixture
def world(tmp_path: Path) -> ScoringWorld:
    found = ScoringWorld(str(tmp_path))
    found.gated(WHOLE)
    return found


def test_a_permuted_head_does_not_go_live_and_its_staged_work_does_when_it_is_allowed(
    world: ScoringWorld,
) -> None:
    before, standing = world.rows(), {entry.path for entry in world.folder.entries("scores")}
    world.says = permuted
    shown: list[tuple[Snapshot, str]] = []

    def show(draft: Snapshot, why: str) -> str:
        assert all(world.folder.read(file.path) for file in draft.files)  # what it names is there to be read
        shown.append((draft, why))
        return "; see here"

    gate = DriftGate(0.25, show)
    with pytest.raises(LimitError) as caught:
        world.gated(WHOLE, M2, gate)
    message, ((draft, why),) = str(caught.value), shown
    assert message.startswith(f"head bookmark moved by PSI {gate.drift['bookmark']:.3f} since snapshot 1, ")
    assert "over --max-drift 0.25" in message
    assert "before and now: 0-10 58 % -> 18 %, 10-30 24 % -> 24 %, 30-∞ 18 % -> 58 %; see here" in message
    assert "\n" not in message
    assert why in message
    assert (draft.number, draft.manifest["model_version"]) == (2, M2)
    assert gate.drift["bookmark"] > 0.25 > gate.drift["sanity"] == 0
    assert (numbers(world.folder), world.rows()) == ([1], before)
    assert {entry.path for entry in world.folder.entries("scores")} == standing
    assert len(staged_receipts(world.folder)) == NUM // world.piece_rows
    refused = f"run-{world.nights:03}"

    snapshot = world.gated(WHOLE, M2, DriftGate(100))
    assert world.scored == []
    assert {row["run"] for row in world.rows().values()} == {refused}
    assert (snapshot.number, live(world.scores).manifest["model_version"]) == (2, M2)
    assert snapshot.manifest["account"] == {"drift": gate.drift}


def test_a_night_that_is_held_back_leaves_live_files_that_it_would_have_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuts, "PART_ROWS", 100)
    world = ScoringWorld(str(tmp_path))
    world.gated(WHOLE)
    before = world.rows()
    world.says = permuted
    with pytest.raises(LimitError):
        world.gated({**WHOLE, **{(number, 0): "v2" for number in range(50)}}, M1, DriftGate(0.001))
    assert world.rows() == before
    assert len(live(world.scores).files_of("scores")) > 3


def test_drift_is_that_of_the_table_as_it_is_published_carried_rows_and_all(world: ScoringWorld) -> None:
    before = world.histogram()
    world.says = permuted
    content: Content = {
        **{key: text for key, text in WHOLE.items() if key[0] >= 10},
        **{(number, 0): "v2" for number in range(50, 150)},
        **{(number, 0): "NOT_FOUND" for number in range(200, 220)},  # they keep their answers
        **{(number, 0): "CORRUPT" for number in range(220, 240)},
        **{(number, 0): "new" for number in range(NUM, NUM + 30)},
    }
    gate = DriftGate(100)
    snapshot = world.gated(content, M1, gate)
    assert len(world.scored) == 170
    assert snapshot.manifest["counts"]["ok"] == NUM
    assert not np.array_equal(world.histogram(), before)
    assert gate.drift["bookmark"] == round(psi(world.histogram(), before), 4) > 0


def test_rows_that_were_pending_may_move_the_table_but_another_model_may_not(tmp_path: Path) -> None:
    world = ScoringWorld(str(tmp_path))
    some = Expression("--where", "illust_id >= 100")
    world.gated(WHOLE, where=some)
    assert live(world.scores).manifest["counts"]["pending"] == 100
    world.says = permuted
    with pytest.raises(LimitError, match="over --max-drift 0.25"):
        world.gated(WHOLE, M2)
    world.says = ScoringWorld.says
    gate = DriftGate(0.05)
    snapshot = world.gated(WHOLE, gate=gate)
    assert gate.drift["bookmark"] > 0.05, "what came is told"
    assert snapshot.manifest["counts"]["ok"] == NUM


def test_a_night_that_moves_a_little_passes(world: ScoringWorld) -> None:
    world.says = lambda share: share**2.2
    gate = DriftGate(0.25)
    assert world.gated(WHOLE, M2, gate).number == 2
    assert 0 < gate.drift["bookmark"] < 0.25


def test_the_first_night_and_few_answers_are_let_through_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = ScoringWorld(str(tmp_path))
    few: Content = {(number, 0): "v1" for number in range(MIN_ROWS - 1)}
    assert world.gated(few, M1, DriftGate(0)).manifest["account"] == {"drift": {}}
    world.says = permuted
    caplog.set_level(logging.INFO)
    assert world.gated(WHOLE, M2, DriftGate(0)).number == 2
    assert f"is not checked: only {MIN_ROWS - 1} answers to compare, of {MIN_ROWS} needed" in caplog.text


def test_a_live_snapshot_that_cannot_be_read_does_not_hold_back_what_mends_it(
    world: ScoringWorld, caplog: pytest.LogCaptureFixture
) -> None:
    (file,) = live(world.scores).files_of("scores")
    world.folder.delete([file.path])
    assert world.gated(WHOLE, M1, DriftGate(0), full=True).number == live_number(world.folder) == 2
    assert "is not checked, as it cannot be read" in caplog.text
