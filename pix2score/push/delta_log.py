"""What the log of a Delta table tells of pushes, and of what others did since the last one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pix2score.push.target import APPLICATION

if TYPE_CHECKING:
    from deltalake import DeltaTable

_NEWEST = 20  # commits that are looked at first for one of a push
_CHANGES_ROWS = ("WRITE", "MERGE", "UPDATE", "DELETE", "TRUNCATE", "COPY INTO", "STREAMING UPDATE")


@dataclass(slots=True)
class LastPush:
    """The last commit of a push, and what has been since."""

    position: str | None = None
    others: set[str] = field(default_factory=set)
    """Operations of others that changed rows."""
    is_gone: str = ""
    """Why the rows that it left are not there any more."""


def last_push(table: DeltaTable) -> LastPush:
    """Of the commits that the table's rows are of: a restored version has those before it."""
    found = LastPush()
    for limit in (_NEWEST, None):
        found, newest = LastPush(), table.version()
        for commit in table.history(limit):
            if commit["version"] > newest:
                continue
            if APPLICATION in commit:
                found.position = str(commit[APPLICATION])
                return found
            newest = min(newest, _noted(commit, found))
    return found


def _noted(commit: Mapping[str, Any], found: LastPush) -> int:
    """Note what a commit of others did; the newest version before it whose rows are still there."""
    operation, more = str(commit.get("operation")), commit.get("operationParameters") or {}
    if operation == "RESTORE" and str(more.get("version", "")).isdigit():
        return int(more["version"])
    if operation == "RESTORE":
        found.is_gone = "an earlier version of it was restored"
    elif "REPLACE" in operation or (
        str(more.get("mode")).lower() == "overwrite" and more.get("predicate") in (None, "", "[]", "true")
    ):
        found.is_gone = "others wrote it anew"
    elif operation in _CHANGES_ROWS:
        found.others.add(operation)
    return int(commit["version"])


def is_ours(table: DeltaTable) -> bool:
    """Whether a push wrote to it: known for longer than the log has commits."""
    return table.transaction_version(APPLICATION) is not None
