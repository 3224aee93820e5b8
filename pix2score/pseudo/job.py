"""pseudo: rows of the live snapshot that a head is sure of become a catalog with labels and weights.

Owns the catalog that it writes: part-*.parquet with key, ``uri`` or ``image``, ``artist_id`` (the group), the
head's label column and ``weight``. ``guards.BEING_WRITTEN`` stands beside them until all are there. Works
out of core.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator
from typing import Any, cast

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.catalog import Catalog, Columns, open_catalog, place_of
from pix2score.catalog.contents import ImageRows
from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.guards import BEING_WRITTEN
from pix2score.catalog.keys import key_fields
from pix2score.catalog.rows import WEIGHT, catalog_rows
from pix2score.catalog.several import absolute_uri
from pix2score.cli.flags import as_plain
from pix2score.cli.summary import recorded
from pix2score.errors import ConfigError, DataError, ImageFailure
from pix2score.heads.spec import Guess, HeadSpec
from pix2score.images.source import image_source
from pix2score.model.card import load_card
from pix2score.pseudo.choice import choose, guess_of
from pix2score.pseudo.config import PseudoConfig
from pix2score.snapshots.identity import model_of
from pix2score.snapshots.manifest import live
from pix2score.snapshots.snapshot import Snapshot
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from pix2score.storage.sql import query
from pix2score.summaries import PseudoSummary

logger = logging.getLogger(__name__)
GROUP = "artist_id"
"""As prepare looks for it."""
_PART = re.compile(r"part-\d{5,}\.parquet")
PART_ROWS = 16_384
PART_IMAGES = 256
"""Rows of a part that holds images: some hundred MB of large ones."""


def pseudo(config: PseudoConfig) -> PseudoSummary:
    """Write the catalog to ``config.out``; return how many rows of each class it has, and why others not.

    Raises ``ConfigError`` for a head that has no classes, or labels for the model that gave them;
    ``DataError`` where there are no scores or nothing is sure enough.
    """
    snapshot, out = live(config.scores), Folder(config.out)
    head, guess = guess_of(config, snapshot)
    _check_student(config, snapshot)
    _clear(out)
    catalog = _catalog(config, snapshot)
    with recorded(out, "summary.json", {"job": "pseudo", "out": out.uri}) as summary:
        with catalog_rows(catalog, PlanCounts()) as connection:
            counts = choose(connection, config, snapshot, catalog, head, guess)
            out.publish(BEING_WRITTEN, b"", replace=True)
            counts["unreadable"] = _write(connection, config, out, catalog, head, guess)
            out.delete([BEING_WRITTEN])
            classes = dict(
                connection.execute(
                    "SELECT category, count(*) FROM chosen GROUP BY 1 ORDER BY 2 DESC, 1"
                ).fetchall()
            )
        _say(config, out, counts, classes)
        summary.update(
            snapshot=snapshot.number,
            model_version=snapshot.manifest["model_version"],
            head=head.name,
            rows=counts,
            classes=classes,
            config=as_plain(config),
        )
    return cast("PseudoSummary", summary)


def _clear(out: Folder) -> None:
    """Remove the parts of a run that died. Raises ``DataError`` if there are other Parquet files."""
    found = [entry.path for entry in out.entries(suffix=".parquet")]
    left = [path for path in found if _PART.fullmatch(path)] if out.is_file(BEING_WRITTEN) else []
    if len(left) < len(found):
        raise DataError(f"{out.uri} holds a catalog already; give another --out")
    if left:
        logger.info("%d parts that a run left unfinished are written anew", len(left))
        out.delete(left)


def _check_student(config: PseudoConfig, snapshot: Snapshot) -> None:
    if config.student is None or config.force:
        return
    version = load_card(config.student).version
    if version == model_of(snapshot.manifest["model_version"]):
        raise ConfigError(
            f"student {config.student} is the model ({version}) that gave these answers: a model's own "
            "labels teach it little; take the scores of another model or an ensemble, or give --force"
        )


def _catalog(config: PseudoConfig, snapshot: Snapshot) -> Catalog:
    pin = snapshot.manifest.get("catalog")
    place = config.catalog or (pin and place_of(pin))
    if place is None:
        raise ConfigError(f"the snapshot of {config.scores} does not name its catalog; give --catalog")
    before = snapshot.manifest["config"].get("columns") or {}
    catalog = open_catalog(place, _mapped(config.columns, before))
    if not catalog.id_type.equals(snapshot.layout.id_type):
        raise DataError(
            f"ids are {catalog.id_type} in catalog {place} and {snapshot.layout.id_type} in {config.scores}: "
            "it is not the catalog that was scored"
        )
    return catalog


def _mapped(asked: Columns, before: dict[str, Any]) -> Columns:
    """The mapping of the night, but for what is asked."""
    default = Columns()
    given = {f.name: getattr(asked, f.name) for f in dataclasses.fields(asked)}
    changed = {name: value for name, value in given.items() if value != getattr(default, name)}
    known = {name: value for name, value in before.items() if name in given}
    return Columns(**{**known, **changed})


def _write(
    connection: duckdb.DuckDBPyConnection,
    config: PseudoConfig,
    out: Folder,
    catalog: Catalog,
    head: HeadSpec,
    guess: Guess,
) -> int:
    """Publish the parts; return how many images of the catalog could not be read."""
    (label,), where = head.label_columns, [pa.field("file", pa.string()), pa.field("row", pa.int64())]
    place = [pa.field("uri", pa.string()), *(where if catalog.embedded else ())]
    further = [pa.field("group", pa.string()), pa.field("label", guess.type), pa.field(WEIGHT, pa.float32())]
    schema = pa.schema([*key_fields(catalog.id_type), *place, *further])
    uri = absolute_uri(catalog.folder.uri)
    order = 'file, "row"' if catalog.embedded else "illust_id, page"
    sql = f"SELECT * REPLACE ({uri} AS uri) FROM chosen ORDER BY {order}"
    tables = query(connection, sql, schema, PART_IMAGES if catalog.embedded else PART_ROWS)
    num_unreadable = 0
    for number, table in enumerate(_with_images(tables, catalog, config) if catalog.embedded else tables):
        readable = table.filter(pc.is_valid(table.column("image"))) if catalog.embedded else table
        num_unreadable += table.num_rows - readable.num_rows
        named = readable.rename_columns(_names(catalog, label, readable.column_names))
        out.publish(f"part-{number:05}.parquet", parquet_bytes(named), replace=True)
    return num_unreadable


def _names(catalog: Catalog, label: str, ours: list[str]) -> list[str]:
    """Names as the catalog has them, so that one mapping does for both; of a field of a struct our own."""
    columns = catalog.columns
    theirs = {
        "illust_id": columns.id,
        "page": columns.page,
        "uri": columns.uri,
        "image": columns.image,
        "group": columns.group or GROUP,
        "label": label,
    }
    return [name if (found := theirs.get(name)) is None or "." in found else found for name in ours]


def _with_images(tables: Iterator[pa.Table], catalog: Catalog, config: PseudoConfig) -> Iterator[pa.Table]:
    images = ImageRows.of(catalog, image_source(catalog.folder.uri, config.image_root))
    for table in tables:
        found = [None if isinstance(c, ImageFailure) else c for c in images.contents(table)]
        yield table.drop_columns(["uri", "file", "row"]).append_column("image", pa.array(found, pa.binary()))


def _say(config: PseudoConfig, out: Folder, counts: dict[str, int], classes: dict[str, int]) -> None:
    logger.info(
        "%d rows of %d scored: %d are less sure than %g, %d lie in val or test, %d are beyond %s of a class",
        *(counts["chosen"], counts["scored"], counts["below_min_confidence"], config.min_confidence),
        *(counts["in_val_or_test"], counts["over_per_class"], config.per_class),
    )
    shown = ", ".join(f"{name} {number}" for name, number in list(classes.items())[:20])
    logger.info("rows of each class: %s%s", shown, "" if len(classes) <= 20 else ", …")
    logger.info(
        "prepare them after the true labels: jobs.prepare --catalog TRUE --catalog %s --weight-column %s",
        *(out.uri, WEIGHT),
    )
