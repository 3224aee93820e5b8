"""A session of a Postgres database: what the server says in one line, and work that is done once more where
the connection was lost or others hold locks."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pix2score.errors import TargetError
from pix2score.push.target import APPLICATION, without_secrets

if TYPE_CHECKING:
    import psycopg
    from psycopg.types import TypeInfo

T = TypeVar("T")
logger = logging.getLogger(__name__)
LOCK_TOLD_S = 60.0
"""So often it is told that others hold a lock; a ``lock_timeout`` of the role or database ends the push."""
_ADVICE = {
    "42501": "the role needs SELECT, INSERT, UPDATE and DELETE on the table and on pix2score_push beside it, "
    "CREATE on the schema to make them, TEMP on the database",
    "25006": "a standby, or read-only by the settings of role or database: give the primary "
    "(?target_session_attrs=read-write)",
    "57014": "fewer --batch-rows, or a longer statement_timeout of the role",
    "55P03": "another session holds a lock on the table",
    "25P03": "fewer --batch-rows, or a longer idle_in_transaction_session_timeout of the role",
}
"""Code of an error of the server -> what to do."""


class Session:
    """One connection at a time. Safe behind a pooler that gives each transaction another server process: it
    has neither prepared statements nor settings that outlive a transaction."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self._name = url, name
        self._types: dict[str, tuple[Callable[..., None], TypeInfo]] = {}
        with self.told():
            self.connection = self._connected()
            row = self.connection.execute("SELECT current_setting('lock_timeout')").fetchone()
        self._waits = bool(row and row[0] == "0")

    def _connected(self) -> psycopg.Connection[Any]:
        import psycopg

        connection = psycopg.connect(
            self._url,
            autocommit=True,
            application_name=APPLICATION,
            client_encoding="UTF8",
            prepare_threshold=None,
        )
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        for register, info in self._types.values():
            register(connection, info)
        return connection

    def register(self, function: Callable[..., None], info: TypeInfo) -> None:
        """Have a type on this connection and on those after it."""
        self._types[info.name] = (function, info)
        function(self.connection, info)

    def close(self) -> None:
        """End it."""
        self.connection.close()

    def rows(self, sql: str, values: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Rows that a statement gives."""
        return self.connection.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """What the server or the way to it says, as one line that names the target and no password."""
        import psycopg

        try:
            yield
        except UnicodeEncodeError:  # which holds all of the text, such as a URL with its password
            raise TargetError(f"{self._name}: not text in UTF-8") from None
        except psycopg.Error as exc:
            raise TargetError(f"{self._name}: {self.said(exc)}") from None

    def said(self, exc: psycopg.Error, *, advise: bool = True) -> str:
        """One line without a password, and what to do."""
        found = exc.diag
        further = {"DETAIL": found.message_detail, "HINT": found.message_hint, "CONTEXT": found.context}
        more = "".join(f" {name}: {text}" for name, text in further.items() if text)
        text = f"{found.message_primary}{more}" if found.message_primary else str(exc)
        text = without_secrets(text, self._url) or type(exc).__name__
        advice = "" if "user request" in text or not advise else _ADVICE.get(exc.sqlstate or "")
        return f"{text}: {advice}" if advice else text

    def transact(self, work: Callable[[bool], T], relations: Sequence[str]) -> T:
        """What ``work`` gives as one transaction, that may be tried again: once where the connection was lost
        or the server ended it for another's sake, ever again while others hold a lock of ``relations``.

        It is told whether an earlier try may have been committed.
        """
        import psycopg

        is_again = False
        with self.told():
            while True:
                try:
                    with self.connection.transaction():
                        if self._waits:
                            self.connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TOLD_S}s'")
                        return work(is_again)
                except psycopg.errors.LockNotAvailable:
                    if not self._waits:
                        raise
                    self._tell_holders(relations)
                except psycopg.Error as exc:
                    if is_again or not self._is_passing(exc):
                        raise
                    is_again = True
                    logger.warning("%s: %s: once more", self._name, self.said(exc))
                    if self.connection.closed:
                        self.connection = self._connected()

    def _is_passing(self, exc: psycopg.Error) -> bool:
        from psycopg.errors import DeadlockDetected, SerializationFailure

        return self.connection.closed or isinstance(exc, (DeadlockDetected, SerializationFailure))

    def _tell_holders(self, relations: Sequence[str]) -> None:
        found = self.rows(
            "SELECT DISTINCT a.pid, a.application_name, coalesce(a.state, '?') FROM pg_locks l "
            "JOIN pg_stat_activity a USING (pid) WHERE l.granted AND pid <> pg_backend_pid() AND "
            "l.relation = ANY (SELECT to_regclass(r) FROM unnest(%s::text[]) r) ORDER BY 1",
            [list(relations)],
        )
        who = ", ".join(f"{pid} ({name or 'no name'}, {state})" for pid, name, state in found[:5])
        logger.warning("%s: waits for locks that others hold: process %s", self._name, who or "unknown")
