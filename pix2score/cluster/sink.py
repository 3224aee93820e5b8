"""A Ray Data pipeline run, and its blocks made into finished pieces while it streams, by rows or by age.

The driver holds references only. Ray Data's own sinks close a piece by rows alone, so that a slow night would
stage nothing for hours.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pyarrow as pa
import ray

from pix2score.cluster.progress import Meter
from pix2score.cluster.ray_patches.bundles import Slice, block_refs, block_slices, bundles_of
from pix2score.errors import wrapped

logger = logging.getLogger(__name__)
R = TypeVar("R")

CLOSE_AFTER_S = 60.0  # what a killed run may have to do again, at most
MAX_WRITING = 16  # pieces being written at a time: bounds what the object store holds
_WRITER_CPUS = 0.5  # compresses and uploads; more than none, so that it never runs on a head without CPUs
_POLL_S = 1.0
_CLOSE_S = 30.0  # for the last bundle of a pipeline that is given up


@dataclass
class _Open:
    """The piece that is being collected."""

    refs: list[Any] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    rows: int = 0
    since: float = 0.0

    def add(self, bundle: Any) -> None:
        if not self.refs:
            self.since = time.monotonic()
        self.refs += block_refs(bundle)
        self.slices += block_slices(bundle)
        self.rows += bundle.num_rows()

    def is_due(self, most_rows: int) -> bool:
        return self.rows >= most_rows or (self.rows > 0 and time.monotonic() - self.since >= CLOSE_AFTER_S)


@dataclass
class Staging(Generic[R]):
    """Pieces of one pipeline.

    ``write(piece, table)`` runs as a Ray task and returns a receipt; safe to run twice. Rows that the cluster
    lost for good are in no piece; the caller compares and plans again.
    """

    dataset: ray.data.Dataset
    write: Callable[[str, pa.Table], R]
    part_rows: int
    prefix: str
    """Of piece names."""
    first_rows: int | None = None
    """Rows of the first piece, to learn early how things go."""
    writer: Executor | None = None
    """Threads of this process that write instead of Ray tasks: where workers would share its cores anyway."""
    meter: Meter | None = None
    """Shows the rows that come out of the pipeline."""
    is_over: Callable[[], bool] | None = None
    """Whether it is time to end: what came out by then is made into pieces, the rest is not waited for."""
    num_pieces: int = 0

    def receipts(self) -> Iterator[R]:
        """A receipt for every piece as it is finished. Closing the iterator ends the pipeline.

        Raises what ``write`` raises, as it was raised.
        """
        bundles: queue.Queue[Any] = queue.Queue(maxsize=2)
        stop = threading.Event()
        reader = threading.Thread(
            target=_read, args=(bundles_of(self.dataset), bundles, stop), name="pipeline", daemon=True
        )
        reader.start()
        patience_s = _CLOSE_S
        try:
            yield from self._collect(bundles)
        except (KeyboardInterrupt, SystemExit):
            # The process ends, and Ray with it; Ray aborts one that takes 3 s over SIGTERM.
            patience_s = _POLL_S
            raise
        finally:
            stop.set()
            with contextlib.suppress(queue.Empty):
                while True:
                    bundles.get_nowait()  # lets the reader see that it is over
            reader.join(timeout=patience_s)

    def _collect(self, bundles: queue.Queue[Any]) -> Iterator[R]:
        piece, writing, is_ended = _Open(), [], False
        while not is_ended:
            num_before = piece.rows
            with contextlib.suppress(queue.Empty):
                item = bundles.get(timeout=_POLL_S)
                is_ended = item is None or isinstance(item, BaseException)
                if isinstance(item, BaseException):
                    self._note(item)
                elif item is not None and item.num_rows():
                    piece.add(item)
            if not is_ended and self.is_over and self.is_over():
                is_ended = True
                for bundle in _at_hand(bundles):
                    piece.add(bundle)
            if self.meter:
                self.meter.add(piece.rows - num_before)
            if piece.is_due(self._most_rows()) or (is_ended and piece.rows):
                writing.append(self._start(piece))
                piece = _Open()
            while writing and (is_ended or len(writing) >= MAX_WRITING or _is_ready(writing[0])):
                yield from self._finished(writing.pop(0))

    def _most_rows(self) -> int:
        return (
            self.part_rows
            if self.num_pieces or self.first_rows is None
            else min(self.part_rows, self.first_rows)
        )

    def _start(self, piece: _Open) -> Any:
        self.num_pieces += 1
        name = f"{self.prefix}-{self.num_pieces:06}"
        if self.writer:
            return self.writer.submit(_fetch_and_write, self.write, name, piece.slices, piece.refs)
        return _writer().remote(self.write, name, piece.slices, *piece.refs)

    def _finished(self, ref: Any) -> Iterator[R]:
        try:
            yield ref.result() if isinstance(ref, Future) else ray.get(ref)
        except ray.exceptions.RayTaskError as exc:
            if isinstance(exc.cause, ray.exceptions.RayError):  # an argument that was lost
                self._note(exc.cause)
            else:
                raise exc.cause from None
        except ray.exceptions.RayError as exc:
            self._note(exc)

    def _note(self, exc: BaseException) -> None:
        """What the cluster lost is done again by another plan; anything else is an error."""
        if not is_system_failure(exc):
            raise exc
        logger.warning("a part of the cluster was lost: %s", " ".join(str(exc).split())[:200])


def is_system_failure(exc: BaseException | None) -> bool:
    """Whether a process, node or object went away, and no code raised an error.

    What the constructor of an actor raised is an error of code.
    """
    lost = (
        ray.exceptions.RayActorError,
        ray.exceptions.ObjectLostError,
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.RaySystemError,
    )
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        raised = _raised_by_constructor(exc)
        if (
            raised is None
            and isinstance(exc, lost)
            and not isinstance(exc, ray.exceptions.ActorUnschedulableError)
        ):
            return True
        exc = raised or getattr(exc, "cause", None) or exc.__cause__
    return False


def _raised_by_constructor(exc: BaseException) -> BaseException | None:
    """What ``__init__`` of an actor raised that Ray therefore calls dead."""
    if not isinstance(exc, ray.exceptions.ActorDiedError) or not exc.actor_init_failed:
        return None
    return next((inner for inner in wrapped(exc) if isinstance(inner, ray.exceptions.RayTaskError)), None)


def _at_hand(bundles: queue.Queue[Any]) -> Iterator[Any]:
    """Bundles that are finished and were not taken yet; what may have ended the pipeline does not matter."""
    with contextlib.suppress(queue.Empty):
        while True:
            item = bundles.get_nowait()
            if item is not None and not isinstance(item, BaseException) and item.num_rows():
                yield item


def _is_ready(ref: Any) -> bool:
    return ref.done() if isinstance(ref, Future) else bool(ray.wait([ref], timeout=0)[0])


def _read(iterate: Callable[[], Iterator[Any]], bundles: queue.Queue[Any], stop: threading.Event) -> None:
    """Put every bundle, then None or the exception that ended the pipeline."""
    try:
        for bundle in iterate():
            _put(bundles, bundle, stop)
            if stop.is_set():
                return
        _put(bundles, None, stop)
    except BaseException as exc:
        _put(bundles, exc, stop)


def _put(bundles: queue.Queue[Any], item: Any, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            bundles.put(item, timeout=_POLL_S)
            return


@functools.cache
def _writer() -> Any:
    return ray.remote(num_cpus=_WRITER_CPUS, max_retries=3)(_write)


def _fetch_and_write(
    write: Callable[[str, pa.Table], R], piece: str, slices: list[Slice], refs: list[Any]
) -> R:
    return _write(write, piece, slices, *ray.get(refs))


def _write(write: Callable[[str, pa.Table], R], piece: str, slices: list[Slice], *blocks: pa.Table) -> R:
    cut = [
        block if s is None else block.slice(s[0], s[1] - s[0])
        for block, s in zip(blocks, slices, strict=True)
    ]
    return write(piece, pa.concat_tables(cut))
