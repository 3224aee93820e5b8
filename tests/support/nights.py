"""Nights without Ray: a catalog of keys and contents, scored by a formula; what must hold after each."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pix2score.catalog.catalog import Catalog, Columns, open_catalog
from pix2score.nightly.pending import left_of
from pix2score.nightly.plan import ScoringPlan
from pix2score.nightly.plan_night import plan_night
from pix2score.nightly.publication import Publication
from pix2score.nightly.publish import publish_night
from pix2score.nightly.request import ScoringRequest
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.leases import Lease
from pix2score.snapshots.manifest import live, live_number
from pix2score.snapshots.pieces import Origin, Receipt, write_piece
from pix2score.snapshots.read import read_embeddings, read_scores
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import FAILED, OK, PENDING, Layout
from pix2score.snapshots.verify import verify
from pix2score.storage.folder import Folder
from tests.support.builders import (
    HEADS,
    Here,
    Key,
    embeddings_table,
    planned_rows,
    scores_table,
    write_catalog,
)

M1, M2 = "aaaaaaaaaaaa", "bbbbbbbbbbbb"


Content = Mapping[Key, str]
"""Key -> fingerprint; one that starts with a code (NOT_FOUND, CORRUPT) is an image that fails so."""


@dataclass
class World:
    """A scores folder, and the nights that have been."""

    place: str
    piece_rows: int = 3
    nights: int = 0
    scored: list[Key] = field(default_factory=list)
    """Keys that the last night worked on itself."""
    id_type: pa.DataType = field(default_factory=pa.int64)
    before: dict[Key, dict[str, Any]] = field(default_factory=dict)
    """Rows that the last published night could have carried over."""
    trunks: Mapping[str, str] = field(default_factory=dict)
    """Model -> its trunk; those with one answer from embeddings of the same."""
    columns: dict[str, Callable[[Key], Any]] = field(default_factory=dict)
    """Further columns of the catalog, by key."""
    answered: list[Key] = field(default_factory=list)
    """Keys that the last night answered from stored embeddings."""
    details: dict[Key, str] = field(default_factory=dict)
    """What failed rows say, by key, where it matters."""
    is_read: set[Key] = field(default_factory=set)
    """Keys whose image gives an answer, whatever its fingerprint."""
    range_rows: int | None = None
    """Rows of the ranges that nights are planned by; None for one task."""
    executor: Any = field(default_factory=Here)

    @property
    def folder(self) -> Folder:
        return Folder(f"{self.place}/scores")

    @property
    def scores(self) -> str:
        return self.folder.uri

    def plan(self, content: Content, model: str = M1, **options: Any) -> tuple[ScoringPlan, Publication]:
        self.nights += 1
        asked = [options[name] for name in ("where", "first") if options.get(name)]
        carry = options.get("carry", ())
        catalog = open_catalog(
            self.catalog(content),
            Columns(),
            others=lambda shape: [*carry, *(name for one in asked for name in one.names(shape))],
        )
        number = live_number(self.folder)
        origin = Origin(
            run=f"run-{self.nights:03}",
            model_version=model,
            trunk_version=self.trunks.get(model),
            parent=number,
            full=options.pop("full", False),
        )
        layout = Layout(catalog.id_type, HEADS, 4, options.pop("embedding_dtype", "float16"))
        snapshot = live(self.scores) if number else None
        options.setdefault("max_removed", 1.0)
        request = ScoringRequest(origin=origin, layout=layout, live=snapshot, **options)
        plan = self.planned(catalog, request)
        return plan, Publication(self.folder, origin, layout, snapshot, plan, [])

    def planned(self, catalog: Catalog, request: ScoringRequest, **options: Any) -> ScoringPlan:
        """The plan, in its own folder below ``staged``."""
        if self.range_rows is not None:
            options |= {"one_task_rows": 0, "range_rows": self.range_rows}
        prefix = f"staged/{request.origin.run}/plan"
        return plan_night(catalog, self.folder, prefix, request, self.executor, **options)

    def catalog(self, content: Content) -> str:
        keys = list(content)
        table = pa.table(
            {
                "illust_id": pa.array([key[0] for key in keys], self.id_type),
                "page": pa.array([key[1] for key in keys], pa.int32()),
                "uri": [f"{key[0]}-{key[1]}.png" for key in keys],
                "etag": list(content.values()),
                **{name: [value(key) for key in keys] for name, value in self.columns.items()},
            }
        )
        return write_catalog(f"{self.place}/catalog", table)

    def night(
        self,
        content: Content,
        model: str = M1,
        *,
        killed_after: int | None = None,
        ends_after: int | None = None,
        **options: Any,
    ) -> Snapshot | None:
        """Plan, stage and publish; killed, or its time is up, after so many pieces, if given."""
        plan, publication = self.plan(content, model, **options)
        if plan.counts.changes_nothing:
            self.scored, self.answered = [], []
            return None
        receipts = self.stage(plan, publication, killed_after if ends_after is None else ends_after)
        if killed_after is not None:
            Lease(self.folder, publication.origin.run).release()  # as if it had expired
            return None
        return self.publish(self.with_rest(replace(publication, receipts=receipts)))

    def with_rest(self, publication: Publication) -> Publication:
        """With pending rows for new keys that are in no piece; what is left is counted. As a night does it:
        nothing is looked for where all is done."""
        plan, receipts = publication.plan, publication.receipts
        num_left = plan.counts.to_score - sum(receipt.rows for receipt in receipts)
        if not (num_left or plan.withheld):
            return publication
        origin, layout = publication.origin, publication.layout
        planned = plan.parts if num_left else []
        left = left_of(self.executor, self.folder, origin, layout, plan, planned, receipts)
        assert left.total == num_left
        plan.counts.left = left.total
        plan.counts.pending += left.num_without_answer
        return replace(publication, receipts=[*receipts, *left.pieces])

    def copied_to(self, place: str) -> World:
        """The same world in another folder of the disk."""
        shutil.copytree(self.place, place)
        return replace(self, place=place, scored=[*self.scored], before={**self.before})

    def publish(self, publication: Publication, workers: Any = None) -> Snapshot:
        """The night's snapshot is live."""
        before = self.rows() if live_number(self.folder) and publication.carried_from else {}
        snapshot = publish_night(publication, FACTS, workers or self.executor)
        self.before = before
        return snapshot

    def stage(
        self, plan: ScoringPlan, publication: Publication, most_pieces: int | None = None
    ) -> list[Receipt]:
        rows, stored = (planned_rows(self.folder, parts) for parts in (plan.parts, plan.stored))
        self.scored, self.answered, receipts = [], [], list[Receipt]()
        for name, what, make in (("answers", stored, self.answers), ("piece", rows, self.piece)):
            for number, start in enumerate(range(0, len(what), self.piece_rows)):
                if most_pieces is not None and len(receipts) >= most_pieces:
                    return receipts
                receipts.append(make(publication, f"{name}-{number}", what[start : start + self.piece_rows]))
        return receipts

    def answers(self, publication: Publication, name: str, rows: list[dict[str, Any]]) -> Receipt:
        """A piece of rows whose embeddings are where the plan says."""
        keys, layout = [(row["illust_id"], row["page"]) for row in rows], publication.layout
        for key, row in zip(keys, rows, strict=True):
            found = pq.read_table(pa.BufferReader(self.folder.read(row["file"]))).slice(row["position"], 1)
            assert found.select(["illust_id", "page"]).to_pylist() == [{"illust_id": key[0], "page": key[1]}]
            assert row["file"].split("/")[1] == row["embedding_run"]
        self.answered += keys
        scores = scores_table(keys, publication.origin.run, (), layout)
        for stays in ("error_code", "error_detail", "fingerprint", "attempts", "embedding_run"):
            position = scores.schema.get_field_index(stays)
            given = pa.array([row[stays] for row in rows], scores.schema.field(position).type)
            scores = scores.set_column(position, scores.schema.field(position), given)
        nothing = layout.embeddings.empty_table()
        return write_piece(self.folder, publication.origin, name, layout, scores, nothing)

    def piece(self, publication: Publication, name: str, rows: list[dict[str, Any]]) -> Receipt:
        keys = [(row["illust_id"], row["page"]) for row in rows]
        self.scored += keys
        codes = [code_of(row["fingerprint"].removeprefix("etag:")) for row in rows]
        codes = [None if key in self.is_read else code for key, code in zip(keys, codes, strict=True)]
        failed = [key for key, code in zip(keys, codes, strict=True) if code]
        scores = scores_table(keys, publication.origin.run, failed, publication.layout)
        told = list(zip(keys, codes, strict=True))
        for name_, values in (
            ("error_code", codes),
            ("error_detail", [code and self.details.get(key, "no such file") for key, code in told]),
            ("fingerprint", [row["fingerprint"] for row in rows]),
            ("attempts", [row["attempts"] + 1 for row in rows]),
            ("scored_at", [datetime(2026, 11, 20, tzinfo=UTC) + timedelta(days=self.nights)] * len(rows)),
        ):
            position = scores.schema.get_field_index(name_)
            scores = scores.set_column(
                position, scores.schema.field(position), pa.array(values, scores.schema.field(position).type)
            )
        embeddings = embeddings_table([key for key in keys if key not in failed], publication.layout)
        return write_piece(self.folder, publication.origin, name, publication.layout, scores, embeddings)

    def rows(self) -> dict[Key, dict[str, Any]]:
        found = {
            (row["illust_id"], row["page"]): row for row in read_scores(self.scores).to_table().to_pylist()
        }
        assert len(found) == read_scores(self.scores).count_rows()
        return found


FACTS = {"fingerprint_kind": "etag", "config": {"columns": {"id": "illust_id"}}}


FAILS = ("NOT_FOUND", "CORRUPT", "CRASHED", "FORBIDDEN", "UNSUPPORTED")


def code_of(fingerprint: str) -> str | None:
    return next((code for code in FAILS if fingerprint.startswith(code)), None)


def check(world: World, content: Content, model: str, left: Collection[Key] = ()) -> None:
    """S1, well-formed rows, live embeddings exactly; all files as their manifest says.

    ``left``: keys that the last night did not come to.
    """
    rows = world.rows()
    assert rows.keys() == content.keys()
    for key, row in rows.items():
        code, old = code_of(content[key]), world.before.get(key)
        if key in left:
            assert row == old if old else (row["status"], row["fingerprint"]) == (PENDING, None)
            continue
        told = (row["fingerprint"], row["status"], row["error_code"])
        if code == "NOT_FOUND" and old and old["status"] == OK and row["attempts"] < 5:
            assert told == (old["fingerprint"], OK, code), "an answer of earlier content stays"
            assert row["embedding_run"] == old["embedding_run"]
        else:
            assert told == (f"etag:{content[key]}", FAILED if code else OK, code)
    assert list(rows) == sorted(rows)
    assert live(world.scores).manifest["model_version"] == model
    embeddings = read_embeddings(world.scores).to_table().to_pylist()
    assert sorted((e["illust_id"], e["page"], e["run"]) for e in embeddings) == sorted(
        (*key, row["embedding_run"]) for key, row in rows.items() if row["status"] == OK
    )
    verify(VerifyConfig(scores=world.scores, catalog=f"{world.place}/catalog"))


def keys(*ids: int) -> dict[Key, str]:
    return {(i, 0): f"v{i}" for i in ids}


class Between:
    """Workers between whose two steps something else happens."""

    def __init__(self, happens: Callable[[], Any]) -> None:
        self._happens = happens

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    def each(
        self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], memory_bytes: int | None = None
    ) -> Iterator[Any]:
        results = [function(*call) for call in calls]
        self._happens()
        return iter(results)


def damage(world: World, receipt: Receipt, how: str) -> None:
    """One thing wrong with a staged piece."""
    folder, embeddings = world.folder, receipt.file("embeddings")
    if how == "embeddings gone" and embeddings:
        folder.delete([embeddings.path])
    elif how == "scores gone":
        folder.delete([receipt.scores.path])
    elif how in ("cut", "altered") and folder.is_file(receipt.scores.path):
        data = bytearray(folder.read(receipt.scores.path))
        data[len(data) // 2] ^= 0xFF
        folder.publish(receipt.scores.path, bytes(data[:-3] if how == "cut" else data), replace=True)
    elif how == "garbage":
        folder.publish(receipt.path, b'{"piece": 3, "origin": [], "files": "x"}', replace=True)
    elif how == "copied":
        folder.publish(f"staged/{receipt.origin.run}/copy.json", folder.read(receipt.path), replace=True)
    elif how == "another run's":
        folder.publish(f"staged/elsewhere/{receipt.piece}.json", folder.read(receipt.path), replace=True)
