"""The table in Postgres: its types, what does not fit, rights that lack, and neighbours by SQL."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest

import pix2score
from pix2score.errors import ConfigError, TargetError
from pix2score.push.config import PushConfig
from pix2score.push.job import push
from pix2score.snapshots.tables import Layout
from tests.neighbours.made import night, vectors_of
from tests.push.tables import Postgres, check, pushed
from tests.support.builders import HEADS
from tests.support.nights import World, keys
from tests.support.paths import ROOT
from tests.support.postgres import PASSWORD


def columns(postgres: Postgres) -> dict[str, str]:
    return dict(
        postgres.sql(  # type: ignore[arg-type]
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
            postgres.name,
        )
    )


def test_columns_have_the_types_that_the_page_says(world: World, postgres: Postgres) -> None:
    world.night(keys(1))
    pushed(world, postgres)
    assert columns(postgres) == {
        "illust_id": "bigint",
        "page": "integer",
        "bookmark_bin": "smallint",
        "bookmark_probs": "real[]",
        "bookmark_score": "real",
        "bookmark_expected": "real",
        "sanity_bin": "smallint",
        "sanity_probs": "real[]",
        "sanity_score": "real",
        "sanity_expected": "real",
        "sanity_median": "smallint",
        "run": "text",
        "scored_at": "timestamp with time zone",
        "snapshot": "integer",
        "model_version": "text",
        "embedding": "halfvec(4)",
    }


def test_embeddings_in_single_precision_are_a_vector(world: World, postgres: Postgres) -> None:
    world.night(keys(1, 2), embedding_dtype="float32")
    pushed(world, postgres)
    assert columns(postgres)["embedding"] == "vector(4)"
    check(world, postgres)


def test_nearest_by_sql_are_the_nearest_and_an_index_stays(tmp_path: object, postgres: Postgres) -> None:
    scores, rows = f"{tmp_path}/scores", [(i, 0) for i in range(300)]
    vectors = vectors_of(rows)
    night(scores, {"run-1": vectors})
    push(PushConfig(scores=scores, to=postgres.to))
    postgres.sql("CREATE INDEX ON scores USING hnsw (embedding halfvec_cosine_ops)")
    newer = vectors_of(rows[:100], seed=5)
    night(scores, {"run-1": vectors, "run-2": newer}, parent=1)
    told = push(PushConfig(scores=scores, to=postgres.to))
    assert (told["upserted"], told["deleted"]) == (100, 0)
    found = postgres.sql(
        "SELECT s.illust_id, 1 - (s.embedding <=> q.embedding) FROM scores s, scores q "
        "WHERE q.illust_id = 7 AND s.illust_id <> 7 ORDER BY s.embedding <=> q.embedding LIMIT 5"
    )
    expected = pix2score.similar(scores, 7, k=5).to_pydict()
    assert [row[0] for row in found] == expected["illust_id"]
    np.testing.assert_allclose([row[1] for row in found], expected["similarity"], atol=1e-5)


def test_a_table_made_by_hand_keeps_its_own_columns(world: World, postgres: Postgres) -> None:
    world.night(keys(1, 2, 3))
    pushed(world, postgres)
    postgres.sql("CREATE TABLE mine (LIKE scores)")
    postgres.sql("ALTER TABLE mine ADD shown bigint DEFAULT 0, ADD note text")
    postgres.sql("ALTER TABLE mine ALTER embedding TYPE vector(4)")
    postgres.name = "mine"
    with pytest.raises(ConfigError, match=r"mine has no unique index on \(illust_id, page\)"):
        pushed(world, postgres, table="mine")
    postgres.sql("CREATE UNIQUE INDEX ON mine (page, illust_id)")
    pushed(world, postgres, table="mine")
    postgres.sql("UPDATE mine SET shown = 7, note = 'kept'")
    world.night(keys(1, 2) | {(3, 0): "changed"})
    pushed(world, postgres, table="mine")
    assert postgres.sql("SELECT DISTINCT shown, note FROM mine") == [(7, "kept")]
    assert columns(postgres)["embedding"] == "vector(4)"


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER TABLE scores ALTER bookmark_bin TYPE bigint", "bookmark_bin is bigint, not smallint"),
        ("ALTER TABLE scores DROP run", "lacks run text"),
        ("ALTER TABLE scores ADD mine text NOT NULL", "mine must not be null, and a push does not know it"),
        ("ALTER TABLE scores DROP CONSTRAINT scores_pkey", "has no unique index on"),
        ("ALTER TABLE scores ALTER embedding TYPE sparsevec(4)", "embedding is sparsevec"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    world: World, postgres: Postgres, statement: str, said: str
) -> None:
    world.night(keys(1, 2))
    pushed(world, postgres)
    postgres.sql("DELETE FROM scores")
    postgres.sql(statement)
    world.night(keys(1, 2, 3))
    position = postgres.position()
    with pytest.raises(ConfigError, match=re.escape(said)):
        pushed(world, postgres)
    assert postgres.position() == position


def test_rows_that_no_push_wrote_are_not_touched(world: World, postgres: Postgres) -> None:
    world.night(keys(1, 2))
    pushed(world, postgres)
    postgres.sql("DROP TABLE pix2score_push")
    with pytest.raises(ConfigError, match="table scores holds rows that no push wrote: give another --table"):
        pushed(world, postgres)
    assert postgres.sql("SELECT count(*) FROM scores") == [(2,)]


def test_another_embedding_size_needs_another_table(tmp_path: object, postgres: Postgres) -> None:
    scores, rows = f"{tmp_path}/scores", [(i, 0) for i in range(5)]
    night(scores, {"run-1": vectors_of(rows)})
    push(PushConfig(scores=scores, to=postgres.to))
    layout = Layout(pa.int64(), HEADS, 8, "float16")
    night(scores, {"run-2": vectors_of(rows, dim=8)}, parent=1, layout=layout)
    with pytest.raises(ConfigError, match=r"embedding is .*halffloat>\[32\], not .*halffloat>\[8\]"):
        push(PushConfig(scores=scores, to=postgres.to))
    push(PushConfig(scores=scores, to=postgres.to, table="eight"))
    push(PushConfig(scores=scores, to=postgres.to, recreate=True))
    assert columns(postgres)["embedding"] == "halfvec(8)"


def test_two_tables_and_schemas_have_positions_of_their_own(world: World, postgres: Postgres) -> None:
    world.night(keys(1, 2))
    postgres.sql("CREATE SCHEMA art")
    pushed(world, postgres)
    pushed(world, postgres, table="art.scores")
    world.night(keys(1, 2, 3))
    assert pushed(world, postgres)["upserted"] == 1
    assert pushed(world, postgres, table="art.scores")["upserted"] == 1
    assert postgres.sql("SELECT count(*) FROM art.scores") == [(3,)]
    assert postgres.sql("SELECT count(*) FROM art.pix2score_push") == [(1,)]


def test_who_may_not_switch_pgvector_on_is_told_what_to_do(world: World, postgres: Postgres) -> None:
    world.night(keys(1))
    postgres.server.sql(f"CREATE ROLE {postgres.database}_guest LOGIN PASSWORD '{PASSWORD}'")
    postgres.sql(f"GRANT ALL ON SCHEMA public TO {postgres.database}_guest")
    postgres.to = postgres.to.replace("owner@", f"{postgres.database}_guest@")
    with pytest.raises(TargetError, match="no pgvector, and it could not be switched on .permission denied"):
        pushed(world, postgres)


def test_who_may_not_write_is_told_by_name(world: World, postgres: Postgres) -> None:
    world.night(keys(1))
    pushed(world, postgres)
    guest = f"{postgres.database}_guest"
    postgres.server.sql(f"CREATE ROLE {guest} LOGIN")
    postgres.sql(f"GRANT SELECT ON scores, pix2score_push TO {guest}")
    owner = postgres.to
    postgres.to = owner.replace("owner@", f"{guest}@")
    world.night(keys(1, 2))
    with pytest.raises(TargetError, match="table scores: permission denied"):
        pushed(world, postgres)
    postgres.to = owner
    assert postgres.position()["snapshot"] == 1
    pushed(world, postgres)
    check(world, postgres)


def test_text_that_postgres_does_not_take_is_named(world: World, postgres: Postgres) -> None:
    world.columns = {"title": lambda key: "a\x00b" if key[0] == 3 else "fine"}
    world.night(keys(1, 2, 3, 4), carry=("title",))
    with pytest.raises(TargetError, match="table scores: invalid byte sequence .* column title"):
        pushed(world, postgres, batch_rows=1)
    assert postgres.position()["after"] == [2, 0]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("x" * 64, 1, "names in Postgres have at most 63 bytes, this one has 64: carry it by a shorter one"),
        ("題" * 22, 1, "names in Postgres have at most 63 bytes, this one has 66"),
        (
            "day",
            np.datetime64("-0500-01-01", "D"),
            "column day has a value that is not to be sent .* do not c",
        ),
        ("what", {"a": 1}, "column what is struct<a: int64>, which has no type in Postgres: do not carry it"),
    ],
)
def test_a_carried_column_that_postgres_does_not_take_is_named(
    world: World, postgres: Postgres, name: str, value: object, said: str
) -> None:
    world.columns = {name: lambda key: value}
    world.night(keys(1, 2), carry=(name,))
    with pytest.raises(ConfigError, match=said):
        pushed(world, postgres)


def test_lists_of_lists_are_arrays(world: World, postgres: Postgres) -> None:
    world.columns = {"box": lambda key: [[key[0], 2], [3, 4]]}
    world.night(keys(1, 2), carry=("box",))
    pushed(world, postgres)
    world.night(keys(2, 3), carry=("box",))
    pushed(world, postgres)
    assert sorted(row["box"] for row in postgres.rows()) == [[[2, 2], [3, 4]], [[3, 2], [3, 4]]]


def test_the_statements_of_the_page_run(tmp_path: object, postgres: Postgres) -> None:
    scores, some_id = f"{tmp_path}/scores", 10002868
    night(scores, {"run-1": vectors_of([(some_id + i, 0) for i in range(30)])})
    push(PushConfig(scores=scores, to=postgres.to))
    page = (ROOT / "pix2score/push/README.md").read_text()
    statements = [
        one for block in re.findall(r"```sql\n(.*?)```", page, re.DOTALL) for one in block.split(";")
    ]
    found = [postgres.sql(statement) for statement in statements if statement.strip()]
    assert [len(rows) for rows in found] == [0, 10, 10]
    nearest = pix2score.similar(scores, some_id, k=10).column("illust_id").to_pylist()
    assert [row[0] for row in found[1]] == nearest
