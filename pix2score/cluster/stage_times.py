"""How busy each stage of a run was, and which one limited it.

Measured per image in the stages, added up from the receipts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

STAGES = ("fetch", "decode", "model", "write")
SHARED_STAGES = ("fetch", "decode", "model")
"""Those that the same tasks may do, one after the other."""
NUM_BYTES = pa.field("num_bytes", pa.int64())
"""Bytes fetched. These columns travel with the rows."""
FETCH_S = pa.field("fetch_s", pa.float32())
"""Seconds that a task waited for an image."""
DECODE_S = pa.field("decode_s", pa.float32())
MODEL_S = pa.field("model_s", pa.float32())
"""Seconds in the model, with decoding where the device of the model does that."""
OF_DECODE = (NUM_BYTES, FETCH_S, DECODE_S)
"""What the stage that fetches and decodes measures."""
MOSTLY = 0.5
"""A stage that was busy for less than this share of the time did not limit the run."""


def totals(rows: pa.Table, write_s: float) -> dict[str, float]:
    """Bytes and busy seconds of a piece; a column that is not there counts as nothing."""

    def total(name: str) -> float:
        return float(pc.sum(rows.column(name)).as_py() or 0) if name in rows.column_names else 0.0

    by_stage = {"fetch": FETCH_S, "decode": DECODE_S, "model": MODEL_S}
    seconds = {stage: round(total(field.name), 4) for stage, field in by_stage.items()}
    return {"bytes": total(NUM_BYTES.name), **seconds, "write": round(write_s, 4)}


@dataclass(frozen=True, slots=True)
class Slots:
    """How many tasks or actors of a stage work at a time."""

    decode: int
    model: int
    write: int
    is_shared: bool = False
    """Whether the same tasks fetch, decode and run the model, one after the other."""


def stage_account(
    measured: Mapping[str, float], slots: Slots, num_images: int, wall_s: float
) -> dict[str, dict[str, float]]:
    """Per stage ``busy_s``, ``share`` of its slots' time, and the ``images_per_s`` that it alone would do.

    ``measured``: ``totals`` of all pieces, added up. Fetching happens inside decode tasks, ahead of decoding:
    its busy time is what decoding waited for it.
    """
    width = {"fetch": slots.decode, "decode": slots.decode, "model": slots.model, "write": slots.write}
    account = {}
    for stage in STAGES:
        busy = measured.get(stage, 0.0)
        facts = {
            "busy_s": round(busy, 3),
            "slots": width[stage],
            "share": round(busy / max(1e-9, wall_s * width[stage]), 3),
        }
        if busy > 0:
            facts["images_per_s"] = round(num_images * width[stage] / busy, 1)
        account[stage] = facts
    return account


def limiting_stage(
    account: Mapping[str, Mapping[str, float]], wall_s: float, *, is_shared: bool = False
) -> str:
    """One sentence that names the stage with the greatest busy share, with the evidence.

    ``is_shared``: as ``Slots`` has it.
    """
    if not account:
        return "nothing was scored"
    most = max(account, key=lambda stage: account[stage]["share"])
    shares = ", ".join(f"{stage} {account[stage]['share']:.0%}" for stage in account)
    slots = int(account[most]["slots"])
    evidence = f"busy share of {wall_s:.0f} s: {shares}"
    is_joint = is_shared and most in SHARED_STAGES
    share = sum(account[stage]["share"] for stage in SHARED_STAGES) if is_joint else account[most]["share"]
    if share < MOSTLY:
        return f"no stage limited the run: start-up and waiting took most of it ({evidence})"
    who = f"{slots} slot{'s' if slots > 1 else ''}{', for all but writing,' if is_joint else ''}"
    return f"{most} limited the run: {who} busy {share:.0%} of the time ({evidence})"
