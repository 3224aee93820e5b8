"""Which answers of the live snapshot become labels: by probability, split of the group, rank in the class."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.keys import KEY
from pix2score.catalog.rows import WEIGHT
from pix2score.dataset.plan import SplitRule, given_split, split_by_hash
from pix2score.errors import ConfigError, DataError
from pix2score.heads.spec import Guess, HeadSpec
from pix2score.pseudo.config import PseudoConfig
from pix2score.snapshots.read import read_scores
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import OK
from pix2score.storage.sql import load, one_row


def guess_of(config: PseudoConfig, snapshot: Snapshot) -> tuple[HeadSpec, Guess]:
    """The head of ``config``, and what its answers say as labels.

    Raises ``ConfigError`` for a head that is not known or has no classes.
    """
    heads = {head.name: head for head in snapshot.layout.heads}
    guesses = {name: head.guess_sql(config.min_confidence) for name, head in heads.items()}
    guess = guesses.get(config.head)
    if guess is None:
        what = f"of kind {heads[config.head].kind} has no classes" if config.head in heads else "is not known"
        able = [name for name, found in guesses.items() if found]
        raise ConfigError(
            f"head {config.head!r} {what}; heads of {config.scores} whose answers can be labels: "
            f"{', '.join(able) or 'none'}"
        )
    return heads[config.head], guess


def choose(
    connection: duckdb.DuckDBPyConnection,
    config: PseudoConfig,
    snapshot: Snapshot,
    catalog: Catalog,
    head: HeadSpec,
    guess: Guess,
) -> dict[str, int]:
    """Make table ``chosen``: rows of ``keyed`` with label, weight and category; count the others.

    Raises ``DataError`` if there are none.
    """
    scores = read_scores(config.scores, snapshot.number)
    names = [*KEY, "status", *(field.name for field in head.fields())]
    schema = pa.schema([scores.schema.field(name) for name in names])
    load(connection, "scored", schema, scores.scanner(columns=names).to_batches())
    rule = SplitRule(val_fraction=config.val_fraction, test_fraction=config.test_fraction, max_pages=1)
    split = given_split() if catalog.columns.split else split_by_hash(rule)
    connection.execute(
        "CREATE TABLE guessed AS SELECT k.*, s.* EXCLUDE (illust_id, page) FROM ("
        f"SELECT illust_id, page, CAST({guess.label} AS {_sql_type(guess.type)}) AS label, "
        f"CAST({guess.confidence} AS FLOAT) AS {WEIGHT}, {guess.category} AS category "
        f"FROM scored WHERE status = '{OK}') s JOIN "
        f'(SELECT illust_id, page, uri, file, "row", "group", {split} AS split FROM keyed) k '
        "USING (illust_id, page)"
    )
    connection.execute(
        f"CREATE TABLE sure AS SELECT *, row_number() OVER (PARTITION BY category ORDER BY {WEIGHT} DESC, "
        f"illust_id, page) AS place FROM guessed WHERE {WEIGHT} >= {config.min_confidence!r}::FLOAT "
        "AND category IS NOT NULL AND split = 'train'"
    )
    limit = "true" if config.per_class is None else f"place <= {config.per_class}"
    connection.execute(f"CREATE TABLE chosen AS SELECT * EXCLUDE (place) FROM sure WHERE {limit}")
    return _counts(connection, config, snapshot)


def _counts(
    connection: duckdb.DuckDBPyConnection, config: PseudoConfig, snapshot: Snapshot
) -> dict[str, int]:
    least = f"{WEIGHT} >= {config.min_confidence!r}::FLOAT AND category IS NOT NULL"
    scored, with_picture, sure, in_train, chosen = one_row(
        connection,
        f"SELECT (SELECT count(*) FROM scored WHERE status = '{OK}'), (SELECT count(*) FROM guessed), "
        f"(SELECT count(*) FROM guessed WHERE {least}), (SELECT count(*) FROM sure), "
        "(SELECT count(*) FROM chosen)",
    )
    if not chosen:
        raise DataError(
            f"no answer of {config.scores} (snapshot {snapshot.number}) can be a label: of {scored} scored "
            f"pictures {with_picture} are in the catalog, {sure} reach a probability of "
            f"{config.min_confidence:g}, {in_train} of them in the train split; a smaller --min-confidence "
            "takes more"
        )
    return {
        "scored": scored,
        "not_in_catalog": scored - with_picture,
        "below_min_confidence": with_picture - sure,
        "in_val_or_test": sure - in_train,
        "over_per_class": in_train - chosen,
        "chosen": chosen,
    }


def _sql_type(kind: pa.DataType) -> str:
    return {pa.int64(): "BIGINT", pa.float64(): "DOUBLE", pa.string(): "VARCHAR"}.get(kind, "VARCHAR[]")
