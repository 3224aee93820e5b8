"""What stops a night before anything is written: another kind of ids, damage, too many keys that differ."""

from __future__ import annotations

from collections.abc import Sequence

from pix2score.catalog.catalog import Catalog
from pix2score.errors import DataError, LimitError
from pix2score.nightly.request import ScoringCounts, ScoringRequest
from pix2score.snapshots.damage import broken_files
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import DataFile
from pix2score.storage.folder import Folder


def check_fits(catalog: Catalog, request: ScoringRequest, folder: Folder, snapshot: Snapshot) -> None:
    """Raise ``DataError`` unless rows of the live snapshot can be carried over, where they would be."""
    live_type = snapshot.layout.id_type
    if not live_type.equals(catalog.id_type):
        raise DataError(
            f"the catalog's ids are {catalog.id_type}, those in {folder.uri} are {live_type}; give another "
            "--out"
        )
    if request.carries_nothing:
        return
    if not request.may_carry:
        check_files(folder, snapshot.files_of("scores"))  # their keys are asked for
        return
    rows = snapshot.manifest["counts"]["rows"]
    before, today = snapshot.manifest["fingerprint_kind"], catalog.fingerprint_kind
    if before != today:
        raise DataError(
            f"images were told apart by {before!r} in snapshot {snapshot.number}, the catalog now offers "
            f"{today!r}: all {rows} rows would be scored again; --full does that, --columns.fingerprint "
            f"{before} keeps them"
        )
    check_files(folder, snapshot.files)
    stored, asked = snapshot.layout.embedding_dtype, request.layout.embedding_dtype
    if stored != asked:
        raise DataError(
            f"embeddings in {folder.uri} are {stored}, --embedding-dtype is {asked}: --full scores all "
            f"{rows} rows again"
        )


def check_files(folder: Folder, files: Sequence[DataFile]) -> None:
    """Raise ``DataError`` naming a live file that is missing or has another size than its manifest says."""
    for path, what in broken_files(folder, files).items():
        raise DataError(
            f"{folder.full(path)} {what}: not carried over; jobs.verify names all damage, --full scores "
            "everything again"
        )


def check_limits(catalog: Catalog, request: ScoringRequest, counts: ScoringCounts) -> None:
    """Raise ``LimitError`` if more keys are removed, or have changed, than the request allows.

    A truncated catalog must not empty the scores, and one written otherwise must not have all scored again.
    """
    if counts.removed > request.max_removed * counts.live:
        raise LimitError(
            f"{counts.removed} of {counts.live} illustrations in the live snapshot are not in catalog "
            f"{catalog.folder.uri}, over --max-removed {request.max_removed:g}: nothing was published; if "
            "they are meant to go, raise it"
        )
    if not request.origin.full and counts.changed > request.max_changed * counts.live:
        raise LimitError(
            f"{counts.changed} of {counts.live} illustrations have another fingerprint in catalog "
            f"{catalog.folder.uri} than in the live snapshot, over --max-changed {request.max_changed:g}: "
            f"nothing was scored; is column {catalog.fingerprint_kind!r} written otherwise than before? If "
            "the images did change, raise it"
        )
