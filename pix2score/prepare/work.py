"""What one invocation of prepare works with, and the id under which it stages."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import pyarrow as pa

from pix2score.catalog.contents import ImageRows
from pix2score.catalog.several import Catalogs
from pix2score.dataset.card import dataset_schema
from pix2score.dataset.labels import label_types
from pix2score.dataset.near_identical import NearIdentical
from pix2score.dataset.side_table import SideTable
from pix2score.dataset.sources import SourceRules
from pix2score.heads.spec import HeadSpec
from pix2score.images.preprocess import ALGORITHM
from pix2score.prepare.config import PrepareConfig
from pix2score.storage.folder import Folder

LABELS = 2
"""Raised when labels are read in another way: an attempt that was begun before is not resumed."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one invocation works with."""

    config: PrepareConfig
    catalogs: Catalogs
    heads: tuple[HeadSpec, ...]
    images: ImageRows
    out: Folder
    staged: str
    """Folder of its plan and receipts, below ``out``."""
    comparisons: SideTable | None
    rules: SourceRules
    alike: NearIdentical | None
    """Groups of near-identical pictures, where ``--duplicates`` names some."""


def plan_id(
    config: PrepareConfig, catalogs: Catalogs, comparisons: SideTable | None, alike: NearIdentical | None
) -> str:
    """12 hex digits, equal for equal settings and an unchanged catalog: then a killed attempt is resumed."""
    # Not max_failed: who allows more failures after a stop wants what is done already.
    asked = {name: value for name, value in config.plain().items() if name != "max_failed"}
    facts = asked | {
        "files": [(e.path, e.size, e.etag) for catalog in catalogs.members for e in catalog.files],
        "algorithm": ALGORITHM,
        "labels": LABELS,
    }
    versions = [dict(catalog.table.facts) for catalog in catalogs.members if catalog.table]
    if versions:  # rows may go without a change to any file
        facts["versions"] = versions
    if comparisons:
        facts["compared"] = (comparisons.entry.size, comparisons.entry.etag)
    if alike:
        facts["alike"] = (alike.table.entry.size, alike.table.entry.etag)
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def shard_schema(work: Work) -> pa.Schema:
    """Of the dataset's shards."""
    catalog, rules = work.catalogs.first, work.rules
    types = label_types(catalog, work.heads, rules)
    return dataset_schema(catalog.id_type, work.heads, types, rules.fields())
