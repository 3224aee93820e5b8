"""Attempts at a training set that are killed, overlap or are damaged: the next one ends as if none had been,
and each key stands once."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.several import Catalogs
from pix2score.dataset.card import dataset_schema
from pix2score.dataset.plan import SplitRule, plan_dataset
from pix2score.dataset.resume import ResumedShards, resume_shards
from pix2score.dataset.shards import FAILED, Shard, ShardReceipt, ShardWriter, staged_shards
from pix2score.heads.ordered import OrderedHead
from pix2score.storage.folder import Folder
from pix2score.storage.parts import total_rows
from tests.support.builders import planned_rows, write_catalog

HEADS = (OrderedHead(name="bookmark", column="bookmarks", edges=(10, 30)),)
SCHEMA = dataset_schema(pa.int64(), HEADS, [("bookmark", pa.int64())])
STAGED = "staged/plan"
NUM_KEYS = 60
CODES = ("NOT_FOUND", "TIMEOUT", "CRASHED", "CORRUPT", "UNSUPPORTED")


class Attempts:
    """Attempts at one dataset, without Ray: they take up, plan and write as ``prepare`` does, and are killed
    after some pieces."""

    def __init__(self, root: Path, num_keys: int = NUM_KEYS) -> None:
        columns = {
            "illust_id": range(num_keys),
            "uri": [f"{i}.png" for i in range(num_keys)],
            "bookmarks": range(num_keys),
        }
        self.catalog = open_catalog(write_catalog(str(root / "catalog"), columns), Columns(), HEADS)
        self.out = Folder(str(root / "dataset"))
        self.num_made = 0

    def begin(self) -> tuple[ResumedShards, list[dict[str, object]], int]:
        """What it takes up, the rows that it has to do, and how many are planned in all."""
        done = resume_shards(self.out, staged_shards(self.out, STAGED), SCHEMA)
        self.num_made += 1
        rule = SplitRule(val_fraction=0.2, test_fraction=0.1, max_pages=4)
        paths = [shard.path for shard in done.shards]
        parts, counts, _ = plan_dataset(
            Catalogs.of(self.catalog), HEADS, rule, self.out, f"plans/{self.num_made}/rows", paths
        )
        assert total_rows(parts) + done.rows == counts.planned
        return done, planned_rows(self.out, parts), counts.planned

    def write(
        self, rows: Sequence[dict[str, object]], failing: Sequence[str | None], piece: str
    ) -> ShardReceipt:
        """A piece of these rows; a code makes its row a failed one."""
        columns = {
            name: [row[name] for row in rows]
            for name in ("illust_id", "uri", "group", "split", "bookmark_label")
        }
        table = pa.table(columns).append_column("page", pa.array([row["page"] for row in rows], pa.int32()))
        data = [
            None if code else f"image {row['illust_id']}".encode()
            for row, code in zip(rows, failing, strict=True)
        ]
        table = table.append_column("data", pa.array(data, pa.binary())).append_column(
            "error_code", pa.array(failing, pa.string())
        )
        table = table.append_column("error_detail", pa.array(failing, pa.string()))
        return ShardWriter(out=self.out, heads=HEADS, schema=SCHEMA, staged=STAGED)(piece, table)

    def pieces(
        self, rows: Sequence[dict[str, object]], rng: random.Random, share_failed: float
    ) -> list[Shard]:
        """Shards of all ``rows``, in pieces of random sizes."""
        shards: list[Shard] = []
        attempt, start = f"piece-{rng.getrandbits(32):08x}", 0
        while start < len(rows):
            some = rows[start : start + rng.randint(1, 30)]
            failing = [rng.choice(CODES) if rng.random() < share_failed else None for _ in some]
            shards += self.write(some, failing, f"{attempt}-{start:06}").shards
            start += len(some)
        return shards

    def ids(self, shards: Sequence[Shard]) -> list[int]:
        """Keys of shards, sorted."""
        return sorted(
            id_
            for s in shards
            for id_ in pq.read_table(self.out.full(s.path)).column("illust_id").to_pylist()
        )


def damage(attempts: Attempts, rng: random.Random) -> None:
    """One file of an attempt is lost, cut, overwritten, copied or added."""
    staged = [
        Path(attempts.out.full(f"{STAGED}/{entry.path}")) for entry in (attempts.out / STAGED).entries()
    ]
    shards = [
        Path(attempts.out.full(e.path))
        for top in ("split=train", "split=val", FAILED)
        for e in attempts.out.entries(top)
    ]
    if not staged or not shards:
        return
    receipt, shard, other = rng.choice(staged), rng.choice(shards), rng.choice(shards)
    content = shard.read_bytes()
    plain = json.loads(receipt.read_text()) if receipt.read_bytes().startswith(b'{"piece"') else {}
    match rng.randrange(9):
        case 0:
            shard.unlink()
        case 1:
            shard.write_bytes(content[: rng.randrange(len(content))])
        case 2:
            shard.write_bytes(rng.randbytes(len(content)))
        case 3:
            receipt.write_bytes(
                rng.choice(
                    [
                        b"",
                        b"[]",
                        b"null",
                        b"{}",
                        b'{"piece": 3, "rows": 1, "shards": [{}]}',
                        b"[" * 10**5,
                        rng.randbytes(9),
                    ]
                )
            )
        case 4:
            receipt.write_text(json.dumps({**plain, "rows": rng.randint(-3, 99), "new": 1}))
        case 5:
            shutil.copy(receipt, receipt.with_name("piece-copied-000001.json"))
        case 6:
            shutil.copy(shard, other)
        case 7:
            receipt.with_name("notes.json").write_text("notes")
        case _:
            receipt.unlink()


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=pytest.mark.slow if seed >= 4 else ()) for seed in range(12)]
)
def test_whatever_earlier_attempts_left_each_key_stands_once_in_the_end(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    attempts = Attempts(tmp_path)
    for _ in range(rng.randint(1, 4)):
        begun = [
            attempts.begin()[1] for _ in range(rng.randint(1, 2))
        ]  # two begun at once know nothing of each other
        for rows in begun:
            attempts.pieces(rows[: rng.randint(0, len(rows))], rng, share_failed=rng.choice([0, 0.1, 1]))
        for _ in range(rng.randint(0, 2)):
            damage(attempts, rng)
    done, rows, num_planned = attempts.begin()
    shards = [*done.shards, *attempts.pieces(rows, rng, share_failed=0)]
    assert attempts.ids(shards) == list(range(NUM_KEYS))
    assert num_planned == NUM_KEYS
    codes = {code for shard in shards for code in shard.errors}
    assert not codes & {"NOT_FOUND", "TIMEOUT", "CRASHED"}


def test_an_attempt_without_damage_is_resumed_whole(tmp_path: Path) -> None:
    attempts, rng = Attempts(tmp_path), random.Random(1)
    _, rows, _ = attempts.begin()
    shards = attempts.pieces(rows[:40], rng, share_failed=0)
    attempts.write(rows[40:50], ["CORRUPT"] * 10, "piece-bad-000001")
    done, left, _ = attempts.begin()
    assert len(left) == 10
    assert {shard.path for shard in shards} < {shard.path for shard in done.shards}
    assert not done.left_out


def test_of_overlapping_attempts_the_one_that_did_most_is_kept(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    _, rows, _ = attempts.begin()
    attempts.write(rows[:30], [None] * 30, "piece-aa-000001")
    attempts.write(rows[10:60], [None] * 50, "piece-bb-000001")
    done, left, _ = attempts.begin()
    taken = set(attempts.ids(done.shards))
    assert {row["illust_id"] for row in rows[10:60]} <= taken
    assert sorted([*taken, *(row["illust_id"] for row in left)]) == list(range(NUM_KEYS))  # type: ignore[type-var]
    assert done.left_out


def test_failures_that_may_pass_are_tried_again_and_others_are_not(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    _, rows, _ = attempts.begin()
    attempts.write(rows[:5], ["NOT_FOUND", None, None, None, "CRASHED"], "piece-aa-000001")
    attempts.write(rows[5:10], ["CORRUPT", None, None, None, "UNSUPPORTED"], "piece-aa-000002")
    done, left, _ = attempts.begin()
    again = {row["illust_id"] for row in left} - {row["illust_id"] for row in rows[10:]}
    assert again == {rows[0]["illust_id"], rows[4]["illust_id"]}
    assert [shard.errors for shard in done.shards if shard.errors] == [{"CORRUPT": 1, "UNSUPPORTED": 1}]


def test_a_receipt_can_name_nothing_but_shards(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path)
    plain = {
        "piece": "piece-x-000001",
        "rows": 1,
        "shards": [{"split": "train", "rows": 1, "bytes": 7, "errors": {}}],
    }
    for path in (
        "../secret.parquet",
        "split=train/mine.parquet",
        "split=val/part-0123456789abcdef.parquet",
        "dataset.json",
    ):
        plain["shards"][0]["path"] = path  # type: ignore[index]
        attempts.out.publish(f"{STAGED}/{path.replace('/', '_')}.json", json.dumps(plain).encode())
    assert staged_shards(attempts.out, STAGED) == []
