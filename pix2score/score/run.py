"""One invocation of score: what it works with, checked before Ray starts, and the plan it makes of that."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal

from pix2score.catalog.catalog import Catalog, Columns, open_catalog
from pix2score.catalog.contents import ImageRows
from pix2score.catalog.expressions import Expression
from pix2score.catalog.hashes import KeptHashes
from pix2score.cli.summary import StageTimer
from pix2score.cluster.tasks import executor_for
from pix2score.errors import ConfigError
from pix2score.host.executor import Executor
from pix2score.images.source import image_source
from pix2score.model.admission import Admission, admitted, engine_facts, is_narrow
from pix2score.model.card import ModelCard
from pix2score.model.folder import load_graph, load_model
from pix2score.nightly.carry import check_carry
from pix2score.nightly.deadline import Deadline, deadline
from pix2score.nightly.plan import ScoringPlan
from pix2score.nightly.plan_night import plan_night
from pix2score.nightly.request import Order, ScoringRequest
from pix2score.score.config import ScoreConfig
from pix2score.score.monitor import NightMonitor
from pix2score.snapshots.identity import with_engine
from pix2score.snapshots.leases import Holder, this_process
from pix2score.snapshots.manifest import live_number, new_run_id, read_snapshot
from pix2score.snapshots.pieces import STAGED, Origin
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import EmbeddingDtype, Layout
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)
SMALL_BYTES, SMALL_ROWS = 2**20, 20_000  # of a catalog and a live snapshot: sorted in some 20 MB


@dataclass(frozen=True, slots=True)
class Run:
    """What one invocation works with."""

    config: ScoreConfig
    origin: Origin
    card: ModelCard
    catalog: Catalog
    images: ImageRows
    out: Folder
    live: Snapshot | None
    layout: Layout
    laps: StageTimer
    holder: Holder
    monitor: NightMonitor
    where: Expression | None = None
    first: Expression | None = None
    deadline: Deadline | None = None
    admission: Admission | None = None
    """Of the engine, where it has fewer bits and may answer on this host."""

    @property
    def id(self) -> str:
        """A name never used before."""
        return self.origin.run

    def engine_facts(self) -> dict[str, Any]:
        """What answered, for manifest and summary, where fewer bits were asked for."""
        return engine_facts(self.config.engine, self.admission)

    @property
    def asks_narrow(self) -> bool:
        """Whether fewer bits were asked for, which the host may have refused."""
        return is_narrow(self.config.engine)

    def is_over(self) -> bool:
        """Whether it is time to begin nothing more."""
        return self.deadline is not None and self.deadline.is_over()


def open_run(config: ScoreConfig, laps: StageTimer) -> Run:
    """Check every input, before Ray starts and anything is written, and return the run."""
    ends = deadline(config.until, config.budget)
    where = Expression("--where", config.where) if config.where is not None else None
    first = Expression("--first", config.first, is_order=True) if config.first is not None else None
    card, weights = load_model(config.model)  # all of it: altered weights are found here, not by an actor
    load_graph(config.model, card)
    admission = admitted(config.model, card, weights, config.engine) if is_narrow(config.engine) else None
    catalog = _catalog(config, card, [expression for expression in (where, first) if expression])
    if catalog.asked != config.columns:
        logger.info("columns as in the dataset of the model: %s", _mapped(config.columns, catalog.asked))
        config = replace(config, columns=catalog.asked)  # and recorded so: verify reads the catalog again
    images = ImageRows.of(catalog, image_source(catalog.folder.uri, config.image_root))
    out = Folder(config.out)
    catalog = replace(catalog, kept=KeptHashes(out, catalog.folder.uri))
    _check_decode(config, card)
    stored = _stored_dtype(card, config.embedding_dtype)
    config = replace(config, embedding_dtype=stored)
    layout = Layout(catalog.id_type, card.heads, card.embedding_dim, stored)
    check_carry(config.carry, layout)
    parent = live_number(out)
    origin = _origin(card, admission.identity if admission else None, parent, full=config.full)
    live = read_snapshot(out, parent) if parent else None
    check_same_model(config, origin.model_version, live)
    laps.lap("check_inputs")
    return Run(
        config,
        origin,
        card,
        catalog,
        images,
        out,
        live,
        layout,
        laps,
        this_process(),
        NightMonitor(out.uri),
        where=where,
        first=first,
        deadline=ends,
        admission=admission,
    )


def _catalog(config: ScoreConfig, card: ModelCard, asked: Sequence[Expression]) -> Catalog:
    """The catalog with what is carried and what ``asked`` names, each of which is checked on it."""
    catalog = open_catalog(
        config.catalog,
        config.columns,
        before=card.about.get("columns"),
        others=lambda shape: [*config.carry, *(name for one in asked for name in one.names(shape))],
    )
    for expression in asked:
        expression.check(catalog)
    return catalog


def _check_decode(config: ScoreConfig, card: ModelCard) -> None:
    """Raise ``ConfigError`` where a GPU's decoder would not resize as the model was trained."""
    if config.decode == "gpu" and card.preprocess.resize != "squash":
        raise ConfigError(
            "decode gpu: it squashes pictures, and the model was trained with resize "
            f"{card.preprocess.resize}"
        )


def _origin(card: ModelCard, engine: str | None, parent: int, *, full: bool) -> Origin:
    """Of a new run: its id, the versions with the ``engine`` of fewer bits, the snapshot it builds on."""
    return Origin(
        run=new_run_id(datetime.now(UTC).strftime("%Y%m%dT%H%M%S")),
        model_version=with_engine(card.version, engine),
        trunk_version=card.trunk_version and with_engine(card.trunk_version, engine),
        parent=parent,
        full=full,
    )


def check_same_model(config: ScoreConfig, version: str, live: Snapshot | None) -> None:
    """Raise ``ConfigError`` if rows of another model would have to stay beside those scored tonight."""
    before = live.manifest["model_version"] if live else version
    part = [name for name in ("where", "until", "budget") if getattr(config, name) is not None]
    if live and part and not config.stage_only and before != version:
        flags = " and ".join(f"--{name}" for name in part)
        raise ConfigError(
            f"{flags} with model {version}: snapshot {live.number} is of model {before}, and a snapshot is "
            "of one model alone; --stage-only scores with the new one over as many runs as it takes, and the "
            "live one stays as it is meanwhile"
        )


def _stored_dtype(card: ModelCard, asked: Literal["auto", EmbeddingDtype]) -> EmbeddingDtype:
    """What embeddings are stored in. Raises ``ConfigError`` where that would not be what the heads saw."""
    if card.embedding_dtype == "float32" and asked == "float16":
        raise ConfigError(
            "embedding_dtype float16: the model's heads see float32, and would answer otherwise from what is "
            "stored; leave it out, or train with --embedding-dtype float16"
        )
    return (card.embedding_dtype or "float16") if asked == "auto" else asked


def _mapped(before: Columns, now: Columns) -> str:
    names = [f.name for f in fields(Columns) if getattr(before, f.name) != getattr(now, f.name)]
    return ", ".join(f"{name} = {getattr(now, name)}" for name in names)


def first_plan(run: Run) -> ScoringPlan:
    """What is to be done at the beginning; made in a thread, while Ray starts."""
    import pix2score.score.pipeline  # noqa: F401  # takes a second, while a local Ray starts

    return plan_of(run, "plan")


def plan_of(run: Run, name: str) -> ScoringPlan:
    """What is to be done now, its parts staged as ``name``."""
    config = run.config
    request = ScoringRequest(
        origin=run.origin,
        layout=run.layout,
        live=run.live,
        retry_failed=config.retry_failed,
        limit=config.limit,
        carry=config.carry,
        max_removed=config.max_removed,
        max_changed=config.max_changed,
        places=run.images.source.places,
        holder=run.holder,
        where=run.where,
        first=run.first,
        order=_order(run),
    )
    place = f"{STAGED}/{run.id}/{name}"
    return plan_night(run.catalog, run.out, place, request, executor(run), dry_run=config.dry_run)


def _order(run: Run) -> Order:
    if run.config.stage_only:
        return "new first"
    return "waiting first" if run.deadline else "any"


def executor(run: Run) -> Executor:
    """Where the plan is made and the snapshot written."""
    return executor_for(small=is_small(run))


def is_small(run: Run) -> bool:
    """Whether a plan can be made in this process.

    A Ray task makes it otherwise, which needs a Ray that has started.
    """
    catalog_bytes = sum(entry.size for entry in run.catalog.files)
    live_rows = sum(file.rows for file in run.live.files_of("scores")) if run.live else 0
    return catalog_bytes <= SMALL_BYTES and live_rows <= SMALL_ROWS
