"""Receipts: small JSON objects, written last, each the proof that a piece of work is finished.

The work may run twice, and then names its files anew; the receipt's name stays, so that it counts once.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

from pix2score.storage.folder import Folder
from pix2score.storage.sql import side_by_side

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

logger = logging.getLogger(__name__)
R = TypeVar("R", bound="DataclassInstance")

READ_AT_ONCE = 1_024
"""Receipts that are fetched side by side, some 2 kB each; the next ones while these are parsed."""
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading a receipt of another version, or something that is none, may raise."""


def receipt_bytes(receipt: DataclassInstance) -> bytes:
    """A receipt as JSON."""
    return json.dumps(asdict(receipt)).encode()


def publish_receipt(
    folder: Folder, path: str, receipt: R, files: Sequence[str], read: Callable[[bytes], R]
) -> R:
    """Publish ``receipt`` at ``path`` and return it, or the one that is there already.

    Then the work was done before: ``files``, which this time wrote, are removed.
    """
    try:
        folder.publish(path, receipt_bytes(receipt))
    except FileExistsError:
        folder.delete(files)
        return read(folder.read(path))
    return receipt


def read_receipts(folder: Folder, paths: Sequence[str], read: Callable[[str, bytes], R]) -> list[R]:
    """The receipts at ``paths``, in that order; ``read`` makes one of its path and content.

    One that cannot be read is left out with a warning. Contents of two chunks at most are in memory.
    """
    receipts = []
    chunks = [paths[i : i + READ_AT_ONCE] for i in range(0, len(paths), READ_AT_ONCE)]
    for contents in side_by_side(folder.read_many, chunks, num_threads=1):
        for path, data in contents.items():
            try:
                receipts.append(read(path, data))
            except UNREADABLE as exc:
                logger.warning(
                    "%s is not a receipt of this version and is left alone: %r", folder.full(path), exc
                )
    return receipts
