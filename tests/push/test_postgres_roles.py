"""Tables in Postgres as administrators make them: few rights, other schemas, triggers, row-level security."""

from __future__ import annotations

import re

import pytest

from pix2score.errors import ConfigError, TargetError
from tests.push.tables import Postgres, check, pushed
from tests.support.nights import World, keys

ROWS = "GRANT SELECT, INSERT, UPDATE, DELETE ON {}, pix2score_push TO ROLE"


def with_rows(world: World, postgres: Postgres) -> Postgres:
    """The table after a first push, and a night that came since."""
    world.night(keys(1, 2, 3, 4))
    pushed(world, postgres)
    world.night(keys(1, 2) | {(1, 0): "changed", (9, 0): "new"})
    return postgres


def test_a_role_that_may_make_nothing_pushes_to_what_was_made(world: World, postgres: Postgres) -> None:
    with_rows(world, postgres)
    pushed(world, postgres.as_role(ROWS.format("scores")))
    check(world, postgres)
    postgres.sql("CREATE TABLE mine (LIKE scores INCLUDING ALL)")
    role = postgres.as_role(ROWS.format("mine"))
    pushed(world, role, table="mine")
    assert postgres.sql("SELECT count(*) FROM mine") == [(3,)]


@pytest.mark.parametrize("right", ["INSERT", "UPDATE", "DELETE"])
def test_a_right_that_lacks_is_told_with_what_is_needed(world: World, postgres: Postgres, right: str) -> None:
    with_rows(world, postgres)
    before = postgres.rows()
    role = postgres.as_role(ROWS.format("scores"), f"REVOKE {right} ON scores FROM ROLE")
    with pytest.raises(TargetError, match="table scores: permission denied for table scores: the role needs"):
        pushed(world, role, batch_rows=100)
    assert postgres.rows() == before


def test_a_role_with_a_schema_of_its_own_keeps_the_position_beside_the_table(
    world: World, postgres: Postgres
) -> None:
    with_rows(world, postgres)
    role = postgres.as_role(ROWS.format("scores"))
    name = role.to.partition("://")[2].partition("@")[0]
    postgres.sql(f"CREATE SCHEMA {name} AUTHORIZATION {name}")
    assert pushed(world, role)["whole"] is False
    check(world, postgres)
    found = postgres.sql("SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname ~ 'pix2score'")
    assert found == [("public",), ("public",)]  # the table and its key


def test_positions_that_are_not_beside_the_table_are_found(world: World, postgres: Postgres) -> None:
    """As the search path has them, where an earlier version put them."""
    with_rows(world, postgres)
    postgres.sql("CREATE SCHEMA first")
    postgres.sql("ALTER TABLE pix2score_push SET SCHEMA first")
    postgres.sql(f"ALTER DATABASE {postgres.database} SET search_path = first, public")
    assert pushed(world, postgres)["whole"] is False
    check(world, postgres)


def test_pgvector_may_be_in_a_schema_that_is_not_searched(world: World, postgres: Postgres) -> None:
    postgres.sql("CREATE SCHEMA extensions")
    postgres.sql("CREATE EXTENSION vector SCHEMA extensions")
    world.night(keys(1, 2, 3))
    pushed(world, postgres)
    world.night(keys(1, 3) | {(3, 0): "other"})
    assert pushed(world, postgres)["whole"] is False
    assert sorted(postgres.sql("SELECT illust_id, snapshot FROM scores")) == [(1, 1), (3, 2)]
    postgres.sql(f"ALTER DATABASE {postgres.database} SET search_path = public, extensions")
    check(world, postgres)


def test_without_a_schema_to_make_a_table_in_it_is_told(world: World, postgres: Postgres) -> None:
    world.night(keys(1))
    postgres.sql(f"ALTER DATABASE {postgres.database} SET search_path = nowhere")
    with pytest.raises(ConfigError, match="search_path names no schema that is there: give --table SCHEMA"):
        pushed(world, postgres)


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("CREATE VIEW it AS SELECT * FROM scores", "a view"),
        ("CREATE MATERIALIZED VIEW it AS SELECT * FROM scores", "a materialized view"),
        ("CREATE SEQUENCE it", "a sequence"),
    ],
)
def test_what_is_no_table_is_named(world: World, postgres: Postgres, statement: str, what: str) -> None:
    with_rows(world, postgres)
    postgres.sql(statement)
    with pytest.raises(ConfigError, match=f"table it is {what}, not a table: give another --table"):
        pushed(world, postgres, table="it")


def test_own_columns_may_be_identities_and_generated(world: World, postgres: Postgres) -> None:
    with_rows(world, postgres)
    postgres.sql(
        "CREATE TABLE mine (id bigint GENERATED ALWAYS AS IDENTITY, LIKE scores, "
        "twice real GENERATED ALWAYS AS (2 * bookmark_score) STORED, UNIQUE (illust_id, page))"
    )
    pushed(world, postgres, table="mine")
    assert postgres.sql("SELECT count(DISTINCT id), bool_and(twice = 2 * bookmark_score) FROM mine") == [
        (3, True)
    ]


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (("UNIQUE (illust_id, page) DEFERRABLE",), "has no unique index"),
        (
            (
                "UNIQUE (illust_id, page)",
                "ALTER TABLE mine DROP snapshot",
                "ALTER TABLE mine ADD snapshot int GENERATED ALWAYS AS (page) STORED",
            ),
            "snapshot is generated",
        ),
    ],
)
def test_a_table_that_cannot_take_the_rows_is_refused_at_once(
    world: World, postgres: Postgres, statements: tuple[str, ...], said: str
) -> None:
    with_rows(world, postgres)
    postgres.sql(f"CREATE TABLE mine (LIKE scores, {statements[0]})")
    for statement in statements[1:]:
        postgres.sql(statement)
    with pytest.raises(ConfigError, match=said):
        pushed(world, postgres, table="mine")


def test_a_partitioned_table_is_one(world: World, postgres: Postgres) -> None:
    with_rows(world, postgres)
    postgres.sql("CREATE TABLE mine (LIKE scores, UNIQUE (illust_id, page)) PARTITION BY HASH (illust_id)")
    for part in range(2):
        postgres.sql(
            f"CREATE TABLE mine{part} PARTITION OF mine FOR VALUES WITH (MODULUS 2, REMAINDER {part})"
        )
    postgres.name = "mine"
    pushed(world, postgres, table="mine")
    world.night(keys(2, 9))
    pushed(world, postgres, table="mine")
    assert sorted(postgres.sql("SELECT illust_id FROM mine")) == [(2,), (9,)]


def test_rows_that_a_trigger_leaves_out_end_the_push(world: World, postgres: Postgres) -> None:
    with_rows(world, postgres)
    postgres.sql(
        "CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.illust_id = 9 THEN RETURN NULL; END IF; RETURN NEW; END $$"
    )
    postgres.sql("CREATE TRIGGER leave BEFORE INSERT ON scores FOR EACH ROW EXECUTE FUNCTION leave()")
    with pytest.raises(TargetError, match="table scores took 1 of 2 rows: a trigger of it leaves some out"):
        pushed(world, postgres, batch_rows=100)
    assert postgres.position()["snapshot"] == 1 or not postgres.position()["done"]
    postgres.sql("DROP TRIGGER leave ON scores")
    pushed(world, postgres)
    check(world, postgres)


POLICIES = [
    ("CREATE POLICY p ON scores USING (illust_id <> 4) WITH CHECK (true)", False),
    ("CREATE POLICY p ON scores FOR SELECT USING (true)", False),
    ("CREATE POLICY p ON scores TO nobody_else USING (true)", False),
    ("CREATE POLICY p ON scores USING (true)", True),
]


@pytest.mark.parametrize(("policy", "is_open"), POLICIES)
def test_rows_that_row_level_security_may_hide_are_not_left_as_they_are(
    world: World, postgres: Postgres, policy: str, is_open: bool
) -> None:
    with_rows(world, postgres)
    if not postgres.sql("SELECT 1 FROM pg_roles WHERE rolname = 'nobody_else'"):
        postgres.sql("CREATE ROLE nobody_else")
    postgres.sql("ALTER TABLE scores ENABLE ROW LEVEL SECURITY")
    postgres.sql(policy)
    role = postgres.as_role(ROWS.format("scores"))
    if is_open:
        pushed(world, role)
        check(world, postgres)
        postgres.sql("CREATE POLICY q ON scores AS RESTRICTIVE USING (illust_id <> 9)")
        world.night(keys(1))
    before = postgres.rows()
    with pytest.raises(ConfigError, match=r"row-level security may hide rows .* ALTER ROLE .* BYPASSRLS"):
        pushed(world, role)
    assert postgres.rows() == before
    pushed(world, postgres.as_role(ROWS.format("scores"), options="BYPASSRLS"))
    check(world, postgres)


def test_a_database_that_is_read_only_is_told_and_read(world: World, postgres: Postgres) -> None:
    world.night(keys(1, 2))
    pushed(world, postgres)
    postgres.sql(f"ALTER DATABASE {postgres.database} SET default_transaction_read_only = on")
    assert pushed(world, postgres)["batches"] == 0
    world.night(keys(1, 3))
    assert pushed(world, postgres, dry_run=True)["upserted"] == 1
    with pytest.raises(TargetError, match=re.escape("read-only transaction: a standby, or read-only by the")):
        pushed(world, postgres)
