"""What a table in Postgres has to be, so that a push may write to it."""

from __future__ import annotations

import pyarrow as pa

from pix2score.catalog.keys import KEY
from pix2score.errors import ConfigError
from pix2score.push.postgres_session import Session
from pix2score.push.rows import EMBEDDING
from pix2score.push.target import check_fits

_KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "i": "an index",
}
_HIDDEN = """
WITH policies AS (
  SELECT polpermissive, polcmd,
    coalesce(pg_get_expr(polqual, polrelid), 'true') || coalesce(pg_get_expr(polwithcheck, polrelid), 'true')
    = 'truetrue' AS is_open
  FROM pg_policy WHERE polrelid = %s::regclass
  AND EXISTS (SELECT 1 FROM unnest(polroles) AS m (role) WHERE role = 0 OR pg_has_role(role, 'MEMBER'))
)
SELECT current_user::text WHERE row_security_active(%s::regclass) AND (
  EXISTS (SELECT 1 FROM policies WHERE NOT polpermissive) OR EXISTS (
    SELECT 1 FROM unnest('{r,a,w,d}'::"char"[]) AS c (cmd) WHERE NOT EXISTS (
      SELECT 1 FROM policies WHERE polpermissive AND polcmd IN (cmd, '*') AND is_open)))
"""
"""The role, if row-level security may keep rows of a table from it."""


def check_table(
    session: Session, name: str, quoted: str, columns: dict[str, tuple[str, str]], schema: pa.Schema
) -> None:
    """Raise ``ConfigError`` if what ``quoted`` names is no table, has other ``columns``, no key, or rows that
    a push would not see. In ``columns``, ``embedding`` becomes a vector where the table has one."""
    _check_kind(session, name, quoted)
    rows = session.rows(
        "SELECT attname, format_type(atttypid, atttypmod), "
        "attnotnull AND NOT atthasdef AND attidentity = '', attgenerated <> '' "
        "FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        [quoted],
    )
    found = {column: kind for column, kind, _, _ in rows}
    if EMBEDDING in found:
        found[EMBEDDING] = found[EMBEDDING].rpartition(".")[2]  # with its schema, if that is not searched
    as_vector = f"vector({schema.field(EMBEDDING).type.list_size})"
    if found.get(EMBEDDING) == as_vector:
        columns[EMBEDDING] = (as_vector, "vector")
    check_fits(name, {column: kind for column, (kind, _) in columns.items()}, found, surplus=False)
    needed = [column for column, _, is_needed, _ in rows if is_needed and column not in columns]
    if needed:
        raise ConfigError(f"{name}: {', '.join(needed)} must not be null, and a push does not know it")
    generated = [column for column, _, _, is_generated in rows if is_generated and column in columns]
    if generated:
        raise ConfigError(
            f"{name}: {', '.join(generated)} is generated, and a push writes it: a plain column"
        )
    _check_key(session, name, quoted)
    check_visible(session, name, quoted)


def _check_kind(session: Session, name: str, quoted: str) -> None:
    ((kind,),) = session.rows("SELECT relkind::text FROM pg_class WHERE oid = %s::regclass", [quoted])
    if kind not in ("r", "p"):
        raise ConfigError(
            f"{name} is {_KINDS.get(kind, 'something else')}, not a table: give another --table"
        )


def _check_key(session: Session, name: str, quoted: str) -> None:
    found = session.rows(
        "SELECT 1 FROM pg_index i WHERE indrelid = %s::regclass AND indisunique AND indisvalid AND "
        "indimmediate AND indpred IS NULL AND indnkeyatts = 2 AND ARRAY(SELECT attname::text FROM "
        "pg_attribute a WHERE a.attrelid = indrelid AND a.attnum = ANY (indkey) ORDER BY 1) = %s LIMIT 1",
        [quoted, list(KEY)],
    )
    if not found:
        raise ConfigError(
            f"{name} has no unique index on ({', '.join(KEY)}): CREATE UNIQUE INDEX makes it (a deferrable "
            "one does not do)"
        )


def check_visible(session: Session, name: str, quoted: str) -> None:
    """Raise ``ConfigError`` if row-level security may keep rows of a table from the role: they would stay as
    they are, unseen."""
    for (role,) in session.rows(_HIDDEN, [quoted, quoted]):
        raise ConfigError(
            f"{name}: row-level security may hide rows of {quoted} from the role {role}: ALTER ROLE {role} "
            f"BYPASSRLS, or CREATE POLICY … ON {quoted} TO {role} USING (true)"
        )
