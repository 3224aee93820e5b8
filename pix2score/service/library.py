"""The live snapshot of a scores folder as the service shows it: neighbours, and pictures of its catalog.

A newer snapshot takes its place while requests go on. What a night or ``vacuum`` removes may be needed by the
one before: it is looked for every ``FOLLOW_S`` seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from pix2score.catalog.catalog import place_of
from pix2score.catalog.keys import Key
from pix2score.catalog.originals import OriginalsLookup
from pix2score.errors import ConfigError, ImageFailure, Pix2ScoreError
from pix2score.neighbours.similar import Neighbours, check_trunk, is_same_trunk
from pix2score.snapshots.manifest import live, live_number, read_snapshot
from pix2score.snapshots.snapshot import Manifest
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)
FOLLOW_S = 30.0
NUM_THREADS = 4
"""Questions to the snapshot, and images of its catalog fetched, at a time."""
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Shown:
    """A snapshot in use."""

    neighbours: Neighbours
    manifest: Manifest


def _newest(scores: str) -> Shown:
    """The live snapshot. Raises ``DataError`` if there is none."""
    neighbours = Neighbours(scores)
    return Shown(neighbours, read_snapshot(Folder(scores), neighbours.snapshot).manifest)


def check_scores(scores: str, trunk_version: str | None) -> None:
    """Raise ``DataError`` if there is no snapshot, ``ConfigError`` if its embeddings are not of this
    trunk."""
    snapshot = live(scores)
    check_trunk("the model", trunk_version, scores, snapshot.number, snapshot.manifest.get("trunk_version"))


class Library:
    """Of one scores folder. ``start`` before the first question, in the event loop that asks."""

    def __init__(self, scores: str, trunk_version: str | None, with_pictures: bool) -> None:
        """Load the live snapshot. Raises ``DataError`` if there is none."""
        self._scores, self._trunk_version = scores, trunk_version
        self._shown = _newest(scores)
        self._with_pictures = with_pictures
        self._originals: OriginalsLookup | None = None
        self._pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="library")
        self._following: asyncio.Task[None] | None = None

    @property
    def snapshot(self) -> int:
        """Number of the one in use."""
        return self._shown.neighbours.snapshot

    @property
    def is_of_model(self) -> bool:
        """Whether a picture can be compared with the embeddings: a later night may be of another model."""
        return is_same_trunk(self._trunk_version, self._shown.neighbours.trunk_version)

    def facts(self) -> dict[str, Any]:
        """What ``/model`` says of it."""
        return {
            "snapshot": self.snapshot,
            "indexed": self._shown.neighbours.is_indexed,
            "by_picture": self.is_of_model,
            "pictures": self._originals is not None,
        }

    def key(self, illust_id: str, page: int) -> Key:
        """The key that a request names. Raises ``ConfigError`` for an id that is none here."""
        if not pa.types.is_integer(self._shown.neighbours.id_type):
            return illust_id, page
        try:
            number = int(illust_id)
        except ValueError:
            raise ConfigError(f"id {illust_id}: the ids here are whole numbers") from None
        if not -(2**63) <= number < 2**63:
            raise ConfigError(f"id {illust_id}: the ids here have 64 bits")
        return number, page

    async def of(self, key: Key, k: int) -> tuple[int, pa.Table]:
        """Snapshot, and the neighbours of a key. Raises ``DataError`` for one without an embedding."""
        shown = self._shown
        return shown.neighbours.snapshot, await self._ask(lambda: shown.neighbours.of([key], k))

    async def like(self, embedding: Any, k: int) -> tuple[int, pa.Table]:
        """Snapshot, and the neighbours of a picture by its embedding."""
        shown = self._shown
        return shown.neighbours.snapshot, await self._ask(lambda: shown.neighbours.like(embedding, k))

    async def image(self, key: Key) -> bytes | ImageFailure | None:
        """Content of a key's image; None where the catalog does not have it, or cannot be read."""
        originals = self._originals
        return None if originals is None else await self._ask(lambda: originals.image(key))

    async def _ask(self, question: Callable[[], R]) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._pool, question)

    def start(self) -> None:
        """Look for pictures, and for newer snapshots, from now on."""
        self._following = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        await self._ask(self._look_up_pictures)
        while True:
            await asyncio.sleep(FOLLOW_S)
            try:
                await self._ask(self._renew)
            except (Pix2ScoreError, OSError) as exc:  # the next look may find it whole
                logger.warning("the newest snapshot of %s is not taken up: %s", self._scores, exc)

    def _renew(self) -> None:
        if live_number(Folder(self._scores)) == self.snapshot:
            return
        before = self._shown
        self._shown = _newest(self._scores)
        logger.info("snapshot %d of %s is shown from now on", self.snapshot, self._scores)
        if before.manifest.get("catalog") != self._shown.manifest.get("catalog"):
            self._look_up_pictures()

    def _look_up_pictures(self) -> None:
        catalog = self._shown.manifest.get("catalog")
        if not (self._with_pictures and catalog):
            return
        try:
            self._originals = OriginalsLookup(place_of(catalog), self._shown.manifest["config"])
        except (Pix2ScoreError, OSError) as exc:
            self._originals = None
            logger.info("no pictures of %s: %s", place_of(catalog), exc)

    def close(self) -> None:
        """Follow no more; remove what is on the disk of temporary files."""
        if self._following:
            self._following.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._originals:
            self._originals.close()
