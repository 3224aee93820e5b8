"""A table of comparisons, as the user has it, made into rows of a plan: each holds the images of one set.

The table, Parquet: ``set``, ``illust_id``, ``page`` (default 0), ``rank`` (1 is best; equal ranks are ties),
and perhaps ``weight`` and ``rater``. The rows of one ``set`` and ``rater`` are a ranking; it becomes one row,
so that all its pairs are in one step of training whatever the workers, the shuffling and the shards are. For
that its images stand in the dataset once more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.types as pt

from pix2score.dataset.card import SPLITS
from pix2score.dataset.side_table import SideTable, open_side_table
from pix2score.errors import DataError
from pix2score.heads.compared import FIRST_PAGE, MAX_IMAGES, OTHERS
from pix2score.storage.sql import load, one_row

NEEDED, OPTIONAL = ("set", "illust_id", "rank"), ("page", "weight", "rater")
OTHERS_FIELD = pa.field(
    OTHERS, pa.list_(pa.struct({"uri": pa.string(), "file": pa.string(), "row": pa.int64()}))
)
"""Of a plan: where a row's images beyond its first lie."""
WORDS = {
    "no_set": "without a set",
    "unknown_id": "of an image that the catalog lacks",
    "unknown_split": "of an image of no known split",
    "no_rank": "without a rank",
    "bad_weight": "with a weight that is no positive number",
    "repeated": "of an image that is in the set already",
    "one_image": "of one image",
    "too_large": f"of more than {MAX_IMAGES} images",
    "cross_split": "of images of different splits",
    "all_ties": "in which all ranks are equal",
}
"""Why rows and sets of a table are left out."""


def open_comparisons(place: str) -> SideTable:
    """The table at ``place``. Raises ``DataError``: no such file, no Parquet, or a column missing."""
    columns = f"{', '.join(NEEDED)}, and perhaps {', '.join(OPTIONAL)}"
    table = open_side_table("--comparisons", place, NEEDED, OPTIONAL, "one Parquet file", columns)
    rank = table.schema().field("rank").type
    if not (pt.is_integer(rank) or pt.is_floating(rank) or pt.is_decimal(rank)):
        raise DataError(f"--comparisons {place}: column rank is {rank}, expected a number (1 is best)")
    return table


def add_sets(connection: duckdb.DuckDBPyConnection, comparisons: SideTable, head: str) -> dict[str, Any]:
    """Add a row per set to table ``chosen``, with column ``others``; return what became of the table's rows.

    Reads table ``split_rows``. ``num_unlabelled`` of what is returned counts images that are in a set and in
    no row of their own.

    Raises ``DataError`` with the counts if no set of the train split is left.
    """
    load(connection, "compared", comparisons.schema(), comparisons.batches())
    counts = _members(connection, comparisons)
    counts |= _sets(connection)
    if not counts["sets_by_split"].get("train"):
        raise DataError(
            f"--comparisons {comparisons.place}: no set of the train split is left to learn from: "
            f"{described(counts)}"
        )
    connection.execute(
        f'ALTER TABLE chosen ADD COLUMN {OTHERS} STRUCT(uri VARCHAR, file VARCHAR, "row" BIGINT)[]'
    )
    connection.execute(_INSERT.replace("HEAD", head))
    return counts


def _members(connection: duckdb.DuckDBPyConnection, comparisons: SideTable) -> dict[str, Any]:
    """Make table ``members``: the rows that count, with what the catalog knows of their images."""
    has = set(comparisons.columns)
    (id_type,) = one_row(connection, "SELECT typeof(illust_id) FROM split_rows LIMIT 1")
    weight = "TRY_CAST(c.weight AS DOUBLE)" if "weight" in has else "NULL::DOUBLE"
    page = "coalesce(TRY_CAST(c.page AS INTEGER), 0)" if "page" in has else "0"
    rater = "CAST(c.rater AS VARCHAR)" if "rater" in has else "NULL::VARCHAR"
    connection.execute(
        'CREATE TABLE named AS SELECT CAST(c."set" AS VARCHAR) AS "set", '
        f"{rater} AS rater, TRY_CAST(c.illust_id AS {id_type}) AS illust_id, {page} AS page, "
        f"TRY_CAST(c.rank AS DOUBLE) AS rank, {weight} AS weight, {_given('weight', has)} AS has_weight "
        "FROM compared c"
    )
    reason = (
        "CASE WHEN n.\"set\" IS NULL THEN 'no_set' WHEN s.illust_id IS NULL THEN 'unknown_id' "
        f"WHEN s.split IS NULL OR s.split NOT IN {SPLITS} THEN 'unknown_split' "
        "WHEN n.rank IS NULL OR NOT isfinite(n.rank) THEN 'no_rank' "
        "WHEN n.has_weight AND NOT coalesce(n.weight > 0 AND isfinite(n.weight), false) THEN 'bad_weight' "
        'WHEN row_number() OVER (PARTITION BY n."set", n.rater, n.illust_id, n.page ORDER BY n.rank) > 1 '
        "THEN 'repeated' END"
    )
    connection.execute(
        f'CREATE TABLE judged AS SELECT {reason} AS reason, n."set", n.rater, n.illust_id, n.page, n.rank, '
        'n.weight, s.split, s."group", s.uri, s.file, s."row", s.fingerprint, '
        "concat_ws('/', n.illust_id, n.page) AS key "
        "FROM named n LEFT JOIN split_rows s ON n.illust_id = s.illust_id AND n.page = s.page"
    )
    connection.execute("CREATE TABLE members AS SELECT * EXCLUDE (reason) FROM judged WHERE reason IS NULL")
    (rows,) = one_row(connection, "SELECT count(*) FROM compared")
    return {"rows": rows, "dropped_rows": _by(connection, "SELECT reason, count(*) FROM judged", "reason")}


def _given(column: str, has: set[str]) -> str:
    return f"c.{column} IS NOT NULL" if column in has else "false"


def _sets(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Make table ``sets``, numbered, with weight and agreement, and keep ``members`` of those alone."""
    connection.execute(
        'CREATE TABLE ranked AS SELECT "set", rater, min(split) AS split, count(*) AS images, '
        f"CASE WHEN count(*) < 2 THEN 'one_image' WHEN count(*) > {MAX_IMAGES} THEN 'too_large' "
        "WHEN count(DISTINCT split) > 1 THEN 'cross_split' WHEN count(DISTINCT rank) = 1 THEN 'all_ties' END "
        "AS reason, coalesce(avg(weight), 1) AS weight FROM members GROUP BY ALL"
    )
    connection.execute(
        'CREATE TABLE sets AS SELECT *, row_number() OVER (ORDER BY "set", rater) AS number, weight / '
        "(SELECT avg(weight) FROM ranked WHERE reason IS NULL AND split = 'train') AS of_mean "
        "FROM ranked WHERE reason IS NULL"
    )
    connection.execute(
        "CREATE TABLE in_sets AS SELECT m.*, s.number, s.of_mean FROM members m JOIN sets s "
        'ON m."set" = s."set" AND m.rater IS NOT DISTINCT FROM s.rater'
    )
    connection.execute(f"CREATE TABLE agreements AS {_AGREEMENT}")
    (sets,) = one_row(connection, "SELECT count(*) FROM ranked")
    (num_unlabelled,) = one_row(
        connection,
        "SELECT count(*) FROM (SELECT DISTINCT illust_id, page FROM in_sets "
        "ANTI JOIN chosen USING (illust_id, page))",
    )
    return {
        "sets": sets,
        "dropped_sets": _by(connection, "SELECT reason, count(*) FROM ranked", "reason"),
        "sets_by_split": _by(connection, "SELECT split, count(*) FROM sets", "split"),
        "images_by_split": _by(connection, "SELECT split, sum(images)::BIGINT FROM sets", "split"),
        "num_unlabelled": num_unlabelled,
    }


def _by(connection: duckdb.DuckDBPyConnection, sql: str, column: str) -> dict[str, int]:
    return dict(connection.execute(f"{sql} WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 1").fetchall())


# Of each ranking: of what other raters said of the same two images, the share that it agrees with.
_AGREEMENT = """
WITH pairs AS (
    SELECT a.number, coalesce(a.rater, '') AS rater, a.key AS one, b.key AS other, b.rank > a.rank AS is_first
    FROM in_sets a JOIN in_sets b ON a.number = b.number AND a.key < b.key AND a.rank <> b.rank
    WHERE a.rater IS NOT NULL
), by_rater AS (
    SELECT one, other, rater, count(*) FILTER (is_first) AS first, count(*) FILTER (NOT is_first) AS second
    FROM pairs GROUP BY ALL
), by_all AS (
    SELECT one, other, sum(first) AS first, sum(second) AS second FROM by_rater GROUP BY ALL
)
SELECT p.number,
    sum(CASE WHEN p.is_first THEN t.first - r.first ELSE t.second - r.second END)
    / nullif(sum(t.first + t.second - r.first - r.second), 0) AS agreement
FROM pairs p JOIN by_all t USING (one, other) JOIN by_rater r USING (one, other, rater)
GROUP BY 1
"""
# Images in an order that says nothing of their ranks.
_INSERT = f"""
INSERT INTO chosen BY NAME
SELECT {FIRST_PAGE} - number AS page, unnest(images[1]), label AS HEAD_label, places[2:] AS {OTHERS}
FROM (
    SELECT number, list(image ORDER BY draw, key) AS images, list(place ORDER BY draw, key) AS places,
        list_concat([any_value(of_mean), any_value(agreement)],
            list(rank ORDER BY draw, key))::FLOAT[] AS label
    FROM (
        SELECT number, key, of_mean, coalesce(agreement, 'NaN'::DOUBLE) AS agreement,
            md5_number_lower(number || '/' || key) AS draw,
            dense_rank() OVER (PARTITION BY number ORDER BY rank) AS rank,
            {{'uri': uri, 'file': file, 'row': "row"}} AS place,
            {{'illust_id': illust_id, 'uri': uri, 'file': file, 'row': "row", 'fingerprint': fingerprint,
              'group': "group", 'split': split}} AS image
        FROM in_sets LEFT JOIN agreements USING (number)
    ) GROUP BY number
)
"""


def described(counts: Mapping[str, Any]) -> str:
    """What became of the rows and sets of a table, in a line."""
    parts = [
        f"{counts['rows']} rows{_left_out(counts['dropped_rows'])}",
        f"{counts['sets']} sets{_left_out(counts['dropped_sets'])}",
        _kept(counts),
    ]
    return "; ".join(parts)


def _left_out(dropped: Mapping[str, int]) -> str:
    found = ", ".join(f"{number} {WORDS[reason]}" for reason, number in dropped.items())
    return f" (left out: {found})" if found else ""


def _kept(counts: Mapping[str, Any]) -> str:
    sets, images = counts["sets_by_split"], counts["images_by_split"]
    return "kept " + ", ".join(
        f"{sets.get(split, 0)} {split} sets of {images.get(split, 0)} images" for split in SPLITS
    )


def warnings(counts: Mapping[str, Any]) -> Sequence[str]:
    """What a person should hear of: sets that are lost, and splits without any."""
    found = []
    crossing = counts["dropped_sets"].get("cross_split", 0)
    if crossing:
        found.append(
            f"{crossing} of {counts['sets']} sets compare images of different splits and are left out: a "
            "column of the catalog that keeps compared images together can be its group or its split"
        )
    for split in SPLITS[1:]:
        if not counts["sets_by_split"].get(split):
            found.append(f"no set of comparisons is in split {split}: nothing is measured there")
    return found
