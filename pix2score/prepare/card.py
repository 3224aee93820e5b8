"""The card of a training set, dataset.json, made and published: the moment at which the dataset exists."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.several import Catalogs
from pix2score.dataset.card import CARD, FORMAT, SPLITS
from pix2score.dataset.labels import label_types
from pix2score.dataset.shards import Shard
from pix2score.errors import ConflictError
from pix2score.heads.kinds import head_from_dict
from pix2score.heads.spec import HeadSpec
from pix2score.prepare.config import PrepareConfig
from pix2score.storage.folder import Folder


def dataset_card(
    config: PrepareConfig,
    catalogs: Catalogs,
    heads: Sequence[HeadSpec],
    counts: PlanCounts,
    shards: Sequence[Shard],
) -> dict[str, Any]:
    """Content of dataset.json."""
    catalog, *more = catalogs.members
    of_more = {"more_catalogs": [other.pin() for other in more]} if more else {}
    per_split = {split: sum(s.rows for s in shards if s.split == split) for split in SPLITS}
    return {
        "format": FORMAT,
        "heads": [head.to_dict() for head in heads],
        "id_type": str(catalog.id_type),
        "label_types": {name: str(kind) for name, kind in label_types(catalog, heads, config.rules())},
        "image_size": config.image_size,
        "rows": per_split,
        "dropped": {**counts.to_dict(), "failed_images": dict(failed_by_code(shards))},
        "shards": [asdict(shard) for shard in shards if shard.split in SPLITS],
        "catalog": catalog.pin(),
        **of_more,
        "config": config.plain(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def card_summary(content: dict[str, Any]) -> dict[str, Any]:
    """What the summary of the run takes from dataset.json."""
    return {
        "rows": content["rows"],
        "bins": {head["name"]: head_from_dict(head).facts() for head in content["heads"]},
        "dropped": content["dropped"],
        "shards": len(content["shards"]),
    }


def publish_card(out: Folder, content: dict[str, Any]) -> None:
    """Publish dataset.json. Raises ``ConflictError`` if another prepare did first."""
    try:
        out.publish(CARD, json.dumps(content, indent=1, ensure_ascii=False).encode())
    except FileExistsError:
        raise ConflictError(
            f"another prepare finished a dataset in {out.uri} first; give another --out"
        ) from None


def failed_by_code(shards: Sequence[Shard]) -> Counter[str]:
    """Error code -> rows of the shards whose image gave nothing."""
    failed: Counter[str] = Counter()
    for shard in shards:
        failed.update(shard.errors)
    return failed
