"""What a finished night publishes: files and manifest, as they follow from its plan and rewritten table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pix2score.images.decode import FORMATS
from pix2score.nightly.merge import Merged
from pix2score.nightly.plan import ScoringPlan
from pix2score.nightly.request import is_answered_again
from pix2score.nightly.returned import kept_removed
from pix2score.snapshots.pieces import Origin, Receipt
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import DataFile, Layout
from pix2score.storage.folder import Folder


@dataclass(frozen=True, slots=True)
class Publication:
    """What a finished night publishes."""

    out: Folder
    origin: Origin
    layout: Layout
    live: Snapshot | None
    plan: ScoringPlan
    receipts: Sequence[Receipt]
    """Pieces that this run staged and the plan does not count as resumed."""

    @property
    def carried_from(self) -> Snapshot | None:
        """The live snapshot, if any of its rows may stay."""
        if self.live is None or self.plan.counts.carried:
            return self.live
        return self.live if self.is_same_model or is_answered_again(self.live, self.origin) else None

    @property
    def is_same_model(self) -> bool:
        """Whether rows of the live snapshot are answers of tonight's model, and none is asked for anew."""
        live = self.live
        is_full = self.origin.full and not self.plan.counts.carried
        return live is not None and not is_full and _model(live) == self.origin.model_version


def manifest_of(
    publication: Publication, merged: Merged, files: Sequence[DataFile], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The manifest that names ``files``: ``facts``, and what follows from plan and table."""
    plan = publication.plan
    return {
        "run": publication.origin.run,
        "model_version": publication.origin.model_version,
        "trunk_version": publication.origin.trunk_version,
        "layout": publication.layout.to_dict(),
        **facts,
        "counts": {
            "rows": merged.rows,
            "ok": merged.rows - merged.failed.total() - merged.pending,
            "failed": merged.failed.total(),
            "failed_by_code": dict(merged.failed),
            "kept": merged.kept,
            "pending": merged.pending,
        },
        "formats": list(FORMATS),
        "plan": plan.counts.to_dict(),
        "carry": plan.carry,
        "runs": dict(merged.runs),
        "consumed": [
            receipt.path for receipt in (*plan.resumed_from, *plan.already_published) if receipt.is_staged
        ],
        "removed_runs": _removed(publication, merged)[1],
        "files": [asdict(file) for file in files],
    }


def files_of(publication: Publication, merged: Merged) -> list[DataFile]:
    """Scores in key order; embeddings of every run that still has a live row; all files of the dead."""
    carried = publication.carried_from
    staged = [
        receipt.file("embeddings") for receipt in (*publication.receipts, *publication.plan.resumed_from)
    ]
    embeddings = [*(carried.files_of("embeddings") if carried else []), *(file for file in staged if file)]
    scores = sorted(
        (file for file in merged.files if file.table == "scores"), key=lambda file: file.first_key or ()
    )
    superseded = carried.files_of("dead") if carried and not merged.is_dead_rewritten else []
    dead = [*superseded, *(file for file in merged.files if file.table == "dead")]
    removed, _ = _removed(publication, merged)
    return [*scores, *(file for file in embeddings if merged.runs[file.run]), *dead, *removed]


def _removed(publication: Publication, merged: Merged) -> tuple[list[DataFile], list[str]]:
    """Rows that may come back: none of another model."""
    live = publication.carried_from if publication.is_same_model else None
    return kept_removed(live, merged.files, publication.origin.run)


def _model(snapshot: Snapshot) -> str:
    return snapshot.manifest["model_version"]
