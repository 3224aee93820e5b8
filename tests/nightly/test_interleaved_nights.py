"""Runs, vacuums, deaths and damage in any order, also runs of some rows and runs that the clock ends: after
every publication the live snapshot is whole, and no state of what is staged stops the next night."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, multiple, rule

from pix2score.catalog.expressions import Expression
from pix2score.errors import ConflictError, DataError, StorageError
from pix2score.nightly import cuts
from pix2score.nightly.publish import Publication
from pix2score.snapshots.config import PublishConfig, VacuumConfig
from pix2score.snapshots.damage import damages
from pix2score.snapshots.leases import Lease
from pix2score.snapshots.manifest import live, live_number, numbers, read_snapshot
from pix2score.snapshots.pieces import staged_receipts
from pix2score.snapshots.restore import publish_snapshot
from pix2score.snapshots.vacuum import vacuum
from tests.support.builders import Key, planned_rows
from tests.support.nights import M1, M2, Between, World, check, damage

IDS = {
    pa.int64(): [-(2**63), -7, -1, 0, 1, 2, 2**53, 2**53 + 1, 2**63 - 1],
    pa.string(): [
        "",
        " ",
        "a",
        "a ",
        "A",
        "a/b",
        "\0",
        "u\u0308",
        "\U0010ffff",
        "[1]",
        "*",
        "?",
        "'",
        "%41",
        "0",
        "00",
        "..",
        "NaN",
    ],
}
CONTENTS = st.sampled_from(["a", "b", "c", "NOT_FOUND", "NOT_FOUND later", "CORRUPT"])
OPTIONS = st.sampled_from(
    [
        {},
        {},
        {},
        {},
        {"full": True},
        {"retry_failed": True},
        {"order": "waiting first"},
        {"order": "new first"},
    ]
)
WHERES: dict[str, Callable[[Key, str], bool]] = {
    "true": lambda key, content: True,
    "page = 0": lambda key, content: key[1] == 0,
    "etag >= 'b'": lambda key, content: content >= "b",
    "false": lambda key, content: False,
}
VACUUMS = st.sampled_from(
    [{}, {"keep": 1}, {"keep": 1, "keep_staged": "0s"}, {"keep": 2, "keep_staged": "0s"}]
)


@dataclass
class Run:
    """A run on its way: what it will publish and what it has yet to do."""

    publication: Publication
    content: dict[Key, str]
    model: str
    rows: list[dict[str, Any]]
    where: str = "true"
    may_end: bool = True
    """Whether it may be published though rows are left."""
    pieces: int = 0

    @property
    def left(self) -> set[Key]:
        """Keys that are not asked for, or not reached: they stay as they are, or are pending."""
        others = {key for key, content in self.content.items() if not WHERES[self.where](key, content)}
        return others | {(row["illust_id"], row["page"]) for row in self.rows}


class Nights(RuleBasedStateMachine):
    """Any number of drivers on one scores folder."""

    runs = Bundle("runs")

    @initialize(
        kind=st.sampled_from(list(IDS)),
        part_rows=st.sampled_from([1, 2, 3, 7]),
        piece_rows=st.sampled_from([1, 2, 5]),
        range_rows=st.sampled_from([None, None, 3, 6]),
    )
    def begin_world(self, kind: pa.DataType, part_rows: int, piece_rows: int, range_rows: int | None) -> None:
        place = tempfile.mkdtemp()
        self.world = World(place, piece_rows=piece_rows, id_type=kind, range_rows=range_rows)
        self.content: dict[Key, str] = {(IDS[kind][0], 0): "a"}
        self.rest: dict[Key, str] = {}
        self.model = M1
        self.commits = 0
        self.states: dict[tuple[str, ...], tuple[dict[Key, str], str, dict[Key, Any], Collection[Key]]] = {}
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(cuts, "PART_ROWS", part_rows)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.finish_with_a_quiet_night()
            self.patch.undo()
            shutil.rmtree(self.world.place)

    @rule(
        changes=st.lists(
            st.tuples(st.integers(0, 17), st.sampled_from([0, 0, 1, 2**31 - 1, -1]), CONTENTS), max_size=8
        ),
        gone=st.integers(0, 4),
    )
    def change_catalog(self, changes: list[tuple[int, int, str]], gone: int) -> None:
        ids = IDS[self.world.id_type]
        kept = dict(list(self.content.items())[gone:])
        self.content = {
            **kept,
            **{(ids[i % len(ids)], page): value for i, page, value in changes},
        } or self.content

    @rule(every=st.integers(2, 4))
    def half_written_catalog(self, every: int) -> None:
        """The next runs see a part of the keys; ``whole_catalog`` brings the rest back."""
        keys = list(self.content)
        self.rest = {**self.rest, **{key: self.content[key] for key in keys[1::every]}}
        self.content = {
            key: value for key, value in self.content.items() if key not in self.rest
        } or self.content

    @rule()
    def whole_catalog(self) -> None:
        self.content = {**self.rest, **self.content}
        self.rest = {}

    @rule()
    def change_model(self) -> None:
        self.model = M2 if self.model == M1 else M1

    @rule(target=runs, options=OPTIONS, where=st.sampled_from(["true", "true", *WHERES]))
    def begin(self, options: dict[str, Any], where: str) -> Any:
        before = (
            live(self.world.scores).manifest["model_version"]
            if live_number(self.world.folder)
            else self.model
        )
        where = where if before == self.model else "true"
        asked = {} if where == "true" else {"where": Expression("--where", where)}
        plan, publication = self.world.plan(self.content, self.model, **options, **asked)
        if plan.counts.changes_nothing:
            return multiple()
        return Run(
            replace(publication, receipts=[]),
            dict(self.content),
            self.model,
            planned_rows(self.world.folder, plan.parts),
            where,
            may_end=before == self.model and not options.get("full"),
        )

    @rule(run=runs, pieces=st.integers(1, 3))
    def stage(self, run: Run, pieces: int) -> None:
        for _ in range(pieces):
            if run.rows:
                rows, run.rows = run.rows[: self.world.piece_rows], run.rows[self.world.piece_rows :]
                run.pieces += 1
                receipt = self.world.piece(run.publication, f"piece-{run.pieces}", rows)
                run.publication = replace(run.publication, receipts=[*run.publication.receipts, receipt])

    @rule(run=consumes(runs), leaves_lease=st.booleans())
    def die(self, run: Run, leaves_lease: bool) -> None:
        if not leaves_lease:
            Lease(self.world.folder, run.publication.origin.run).release()

    @rule(run=consumes(runs), pieces=st.integers(0, 2))
    def end_with_staging(self, run: Run, pieces: int) -> None:
        """As with --stage-only: the pieces stay, the plan goes."""
        self.stage(run, pieces)
        top = f"staged/{run.publication.origin.run}"
        plan = [f"{top}/{e.path}" for e in (self.world.folder / top).entries() if e.path.startswith("plan")]
        self.world.folder.delete(plan)
        self.die(run, leaves_lease=False)

    @rule(
        run=consumes(runs),
        meanwhile=st.one_of(st.none(), VACUUMS),
        dies_tidying=st.booleans(),
        ends=st.booleans(),
    )
    def publish(self, run: Run, meanwhile: dict[str, Any] | None, dies_tidying: bool, ends: bool) -> None:
        if not (ends and run.may_end):
            self.stage(run, 1000)
        run.publication = self.world.with_rest(run.publication)
        staged = (
            {e.path: self.world.folder.read(e.path) for e in self.world.folder.entries("staged")}
            if dies_tidying
            else {}
        )
        number = live_number(self.world.folder)
        try:
            self.world.publish(
                run.publication,
                Between(lambda: self.vacuum(meanwhile) if meanwhile is not None and number else None),
            )
        except ConflictError:
            assert live_number(self.world.folder) != (
                run.publication.live.number if run.publication.live else 0
            )
            return
        for path, data in staged.items():
            self.world.folder.publish(path, data, replace=True)
        self.check(run.content, run.model, run.left)

    @rule(options=VACUUMS)
    def vacuum_between(self, options: dict[str, Any]) -> None:
        if live_number(self.world.folder):
            self.vacuum(options)
            assert self.world.rows()

    def vacuum(self, options: dict[str, Any]) -> None:
        vacuum(VacuumConfig(scores=self.world.scores, **options))

    @rule(which=st.integers(0, 30))
    def take_back(self, which: int) -> None:
        """Whatever is at work, and whatever vacuum left: an older snapshot is live as it was."""
        known = numbers(self.world.folder)[:-1]
        if known:
            number = known[which % len(known)]
            try:
                publish_snapshot(PublishConfig(scores=self.world.scores, snapshot=number))
            except DataError:  # a piece of its own was damaged while another one was live
                assert damages(self.world.folder, read_snapshot(self.world.folder, number).files)
                return
            content, model, self.world.before, left = self.states[self.tables(number)]
            self.check(content, model, left)

    def tables(self, number: int) -> tuple[str, ...]:
        """What tells a night's snapshot, its compactions and its returns from all others."""
        files = read_snapshot(self.world.folder, number).files_of("scores")
        return tuple(file.path for file in files)

    @rule(
        which=st.integers(0, 30),
        how=st.sampled_from(
            ["embeddings gone", "scores gone", "cut", "altered", "garbage", "copied", "another run's"]
        ),
    )
    def damage_what_is_staged(self, which: int, how: str) -> None:
        """Of runs that are no more: what a run at work has staged is under its lease. Never a file that is
        live by now."""
        named = (
            {file.path for file in live(self.world.scores).files} if live_number(self.world.folder) else set()
        )
        dead = [
            receipt
            for receipt in staged_receipts(self.world.folder)
            if not self.world.folder.is_file(f"leases/{receipt.origin.run}.json")
            and not named & {file.path for file in receipt.files}
        ]
        if dead:
            damage(self.world, dead[which % len(dead)], how)

    def check(self, content: dict[Key, str], model: str, left: Collection[Key] = ()) -> None:
        self.commits += 1
        self.world.catalog(content)
        check(self.world, content, model, left)
        self.states[self.tables(live_number(self.world.folder))] = content, model, self.world.before, left

    def finish_with_a_quiet_night(self) -> None:
        try:
            snapshot = self.world.night(self.content, self.model)
        except StorageError as exc:
            raise AssertionError(f"a night failed that an empty staged/ would not: {exc}") from exc
        if snapshot:
            self.check(self.content, self.model)


class ManyNights(Nights):
    """The same at greater length."""


Nights.TestCase.settings = settings(
    max_examples=3,
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
ManyNights.TestCase.settings = settings(Nights.TestCase.settings, max_examples=12)
test_any_order_of_runs_vacuums_and_deaths = Nights.TestCase
test_many_orders_of_runs_vacuums_and_deaths = pytest.mark.slow(ManyNights.TestCase)
