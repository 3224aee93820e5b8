"""Nights that go wrong, with real processes killed: nothing is lost, nothing half done is ever live, and the
next run mends it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pix2score import read_embeddings, read_scores
from pix2score.errors import FETCH_ERROR_CODES, VerifyError
from pix2score.images import decoder
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.manifest import live_number
from pix2score.snapshots.pieces import staged_receipts
from pix2score.snapshots.verify import verify
from pix2score.storage.folder import Folder
from tests.conftest import BUCKET
from tests.support.drivers import (
    BATCH_SIZE,
    NUM_CPUS,
    PART_ROWS,
    Job,
    Ray,
    command_line,
    descendants,
    picture,
    ray_cluster,
    started_node,
    upload_catalog,
    upload_pictures,
)
from tests.support.flaky_proxy import Faults, FlakyStorage, start
from tests.support.models import cheap_model
from tests.support.paths import ROOT
from tests.support.pictures import png

pytestmark = pytest.mark.timeout(400)

NUM_PICTURES = 300
MISSING, BROKEN, CUT = 5, 17, 29
"""Ids of pictures that fail by themselves."""
PREFIX = "faults"
PICTURES = f"{BUCKET}/{PREFIX}/pictures/"
SLOW = Faults(slow_below=PICTURES, slow_s=0.5)
"""A run long enough to be killed in the middle of."""


POISON = """
import sys
if "pix2score.images.decoder" in sys.orig_argv:
    import os, time
    from PIL import PngImagePlugin
    load = PngImagePlugin.PngImageFile.load
    def poisoned(self):
        data = self.fp.getvalue() if self.fp and hasattr(self.fp, "getvalue") else b""
        if data.endswith(b"exits"):
            os._exit(7)
        kept = []
        while data.endswith(b"allocates"):
            kept.append(bytes(2**25))
        while data.endswith(b"never returns"):
            time.sleep(1)
        return load(self)
    PngImagePlugin.PngImageFile.load = poisoned
"""
"""A codec with bugs, in every decode child of the cluster; it shows with pictures that end so."""


@pytest.fixture(scope="module")
def storage(moto_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlakyStorage]:
    """What the cluster and its drivers take for S3; the tests themselves speak to the server behind it."""
    process, flaky = start(moto_server, tmp_path_factory.mktemp("proxy") / "faults.json")
    yield flaky
    process.kill()
    process.wait(timeout=10)


@pytest.fixture(autouse=True)
def good_storage(storage: FlakyStorage) -> Iterator[None]:
    """Every test begins and ends with storage that behaves."""
    storage.behave()
    storage.forget()
    yield
    storage.behave()


@pytest.fixture(scope="module")
def ray(storage: FlakyStorage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    seams = tmp_path_factory.mktemp("seams")
    (seams / "sitecustomize.py").write_text(POISON)
    with ray_cluster(
        {"AWS_ENDPOINT_URL": storage.endpoint, "PYTHONPATH": f"{seams}{os.pathsep}{ROOT}"}
    ) as cluster:
        yield cluster


@dataclass(frozen=True)
class Night:
    """What every test scores, and what comes out if nothing goes wrong."""

    ray: Ray
    catalog: str
    model: str
    reference: str
    seconds: float

    def start(self, out: str, *words: str, catalog: str | None = None, **settings: str) -> Job:
        return start_score(self.ray, catalog or self.catalog, self.model, out, *words, **settings)

    def assert_equal(self, out: str) -> None:
        """The live snapshot of ``out`` holds what it promises, and what an undisturbed run makes."""
        verify(VerifyConfig(scores=out, catalog=self.catalog))
        assert_same(tables_of(out), tables_of(self.reference))


def start_score(ray: Ray, catalog: str, model: str, out: str, *words: str, **settings: str) -> Job:
    sizes = ("--part-rows", str(PART_ROWS), "--batch-size", str(BATCH_SIZE), "--embedding-dtype", "float32")
    return ray.start(
        "score", "--catalog", catalog, "--model", model, "--out", out, *sizes, *words, **settings
    )


def catalog_rows(ids: range = range(NUM_PICTURES)) -> list[tuple[int, str, str]]:
    return [(i, f"pictures/{i}.png", f"v{i}") for i in ids]


@pytest.fixture(scope="module")
def night(ray: Ray, s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """The undisturbed run."""
    contents = {f"pictures/{i}.png": picture(i) for i in range(NUM_PICTURES) if i != MISSING}
    contents[f"pictures/{BROKEN}.png"] = b"<html>no picture</html>"
    contents[f"pictures/{CUT}.png"] = picture(CUT)[:-40]
    upload_pictures(s3, PREFIX, contents)
    catalog = upload_catalog(s3, PREFIX, catalog_rows())
    root = tmp_path_factory.mktemp("night")
    model, reference = cheap_model(root / "model"), str(root / "reference")
    started = time.monotonic()
    summary = start_score(ray, catalog, model, reference).done()
    assert (summary["scored"], summary["failed"]) == (NUM_PICTURES, 3)
    return Night(ray, catalog, model, reference, time.monotonic() - started)


def tables_of(place: str) -> tuple[pa.Table, pa.Table]:
    """Scores and embeddings in key order."""
    key = [("illust_id", "ascending"), ("page", "ascending")]
    return read_scores(place).to_table().sort_by(key), read_embeddings(place).to_table().sort_by(key)


def assert_same(ours: tuple[pa.Table, pa.Table], theirs: tuple[pa.Table, pa.Table]) -> None:
    """Equal but for when and by which run, and for 1e-5 in what the model computed."""
    for mine, other in zip(ours, theirs, strict=True):
        for name in set(mine.column_names) - {"run", "embedding_run", "scored_at", "attempts"}:
            left, right = mine.column(name).combine_chunks(), other.column(name).combine_chunks()
            if pa.types.is_fixed_size_list(left.type) or pa.types.is_floating(left.type):
                assert left.is_valid().equals(right.is_valid()), name
                np.testing.assert_allclose(numbers(left), numbers(right), atol=1e-5, rtol=1e-5, err_msg=name)
            else:
                assert left.equals(right), name


def numbers(column: pa.Array) -> np.ndarray[Any, Any]:
    valid = column.drop_null()
    flat: np.ndarray[Any, Any] = (
        valid.flatten() if pa.types.is_fixed_size_list(valid.type) else valid
    ).to_numpy(zero_copy_only=False)
    return flat


def assert_never_partial(out: str, catalog: str) -> None:
    """There is no snapshot, or one that holds everything."""
    if live_number(Folder(out)):
        verify(VerifyConfig(scores=out, catalog=catalog))


def staged_rows(out: str) -> int:
    return sum(receipt.rows for receipt in staged_receipts(Folder(out)))


def kept_rows(out: str) -> int:
    """Staged rows that a later run takes up: all but failures to fetch, which it tries again."""
    return sum(
        r.rows - sum(r.failed.get(code, 0) for code in FETCH_ERROR_CODES)
        for r in staged_receipts(Folder(out))
    )


def settle(ray: Ray) -> None:
    """What a killed driver left running has ended."""
    deadline = time.monotonic() + 60
    while (
        ray.processes("pix2score.images.decoder", "ray::ScoreImages", "ray::_write")
        and time.monotonic() < deadline
    ):
        time.sleep(0.2)
    time.sleep(2 * SLOW.slow_s)  # requests that the proxy holds are counted when it lets them go


def table(lines: list[str]) -> None:
    """For people who run with ``-s``."""
    print("\n" + "\n".join(lines))


# A killed driver


@dataclass(frozen=True)
class Loss:
    """What a killed driver cost."""

    had_published: bool
    fetched: int
    kept: int
    fetched_twice: int


def kill_and_run_again(night: Night, storage: FlakyStorage, out: str, job: Job) -> Loss:
    """SIGKILL now; whatever the moment, the next run ends as an undisturbed one and takes up every staged
    row."""
    job.kill()
    storage.behave()
    settle(night.ray)
    assert_never_partial(out, night.catalog)
    had_published, kept, fetched = (
        bool(live_number(Folder(out))),
        kept_rows(out),
        storage.served(PICTURES).total(),
    )
    again = night.start(out).done()
    night.assert_equal(out)
    if not had_published:
        assert (again["resumed"], again["scored"], again["failed"]) == (kept, NUM_PICTURES, 3)
    twice = storage.served(PICTURES).total() - (NUM_PICTURES - 1)
    assert twice <= max(0, fetched - kept), "only what was in flight is fetched again"
    return Loss(had_published, fetched, kept, twice)


@pytest.mark.slow
def test_a_driver_killed_while_it_scores_costs_what_was_in_flight(
    night: Night, storage: FlakyStorage, tmp_path: Path
) -> None:
    storage.behave(SLOW)
    out = str(tmp_path / "scores")
    job = night.start(out)
    job.until(lambda: staged_rows(out) >= 3 * PART_ROWS)
    loss = kill_and_run_again(night, storage, out, job)
    table([str(loss)])
    assert loss.kept >= 2 * PART_ROWS
    assert not loss.had_published


@pytest.mark.slow
def test_a_driver_killed_at_the_door_of_publishing_costs_no_image(
    night: Night, storage: FlakyStorage, s3_place: str
) -> None:
    storage.behave(Faults(meet_at="/snapshots/", meet_number=99))
    job = night.start(s3_place)
    job.until(storage.waiting)
    loss = kill_and_run_again(night, storage, s3_place, job)
    table([str(loss)])
    assert (loss.had_published, loss.kept, loss.fetched_twice) == (False, NUM_PICTURES - 1, 0)


NUM_POINTS = 20


@pytest.mark.endurance
@pytest.mark.timeout(3000)
def test_a_driver_killed_at_twenty_points_of_its_run(
    night: Night, storage: FlakyStorage, s3_place: str, tmp_path: Path
) -> None:
    storage.behave(SLOW)
    whole = night.start(str(tmp_path / "whole"))
    whole.done()
    seconds, lines = time.monotonic() - whole.started, []
    for point in range(1, NUM_POINTS + 1):
        out = str(tmp_path / str(point)) if point % 2 else f"{s3_place}/{point}"
        storage.behave(SLOW)
        storage.forget()
        job = night.start(out)
        time.sleep(seconds * point / (NUM_POINTS + 1))
        loss = kill_and_run_again(night, storage, out, job)
        lines.append(f"killed after {seconds * point / (NUM_POINTS + 1):5.1f} of {seconds:.1f} s: {loss}")
        table(lines[-1:])


@pytest.mark.endurance
def test_a_driver_asked_to_end_says_that_it_was_and_the_same_command_goes_on(
    night: Night, storage: FlakyStorage, tmp_path: Path
) -> None:
    storage.behave(SLOW)
    out = str(tmp_path / "scores")
    job = night.start(out)
    job.until(lambda: staged_rows(out) >= PART_ROWS)
    job.process.terminate()
    assert job.wait(60) == 1
    assert_one_clear_line(job, "the same command again is safe")
    assert kill_and_run_again(night, storage, out, job).kept >= PART_ROWS


# Killed workers

PREDICTOR, DECODE_WORKER, DECODE_CHILD, WRITER = (
    "ScoreImages",
    "fetch_and_decode",
    "pix2score.images.decoder",
    "ray::_write",
)
ACTOR = "ray::MapWorker"
"""On one machine without GPUs it fetches, decodes and predicts."""


def kill_one(night: Night, job: Job, what: str) -> None:
    pids = job.until(lambda: night.ray.processes(what))
    os.kill(pids[-1], signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_predictor_decode_worker_and_decode_child_change_nothing(
    night: Night, storage: FlakyStorage, tmp_path: Path
) -> None:
    storage.behave(SLOW)
    out = str(tmp_path / "scores")
    job = night.start(out)
    kill_one(night, job, DECODE_CHILD)
    kill_one(night, job, DECODE_WORKER)
    job.until(lambda: staged_rows(out))
    kill_one(night, job, PREDICTOR)
    assert job.done()["failed"] == 3
    night.assert_equal(out)


@pytest.mark.slow
def test_on_one_machine_a_killed_actor_and_decode_child_change_nothing(
    night: Night, storage: FlakyStorage, tmp_path: Path
) -> None:
    storage.behave(SLOW)
    out = str(tmp_path / "scores")
    job = night.start(out, RAY_ADDRESS="")

    def below(what: str) -> list[int]:
        return [pid for pid in descendants(job.process.pid) if what in command_line(pid)]

    os.kill(job.until(lambda: below(DECODE_CHILD))[-1], signal.SIGKILL)
    job.until(lambda: staged_rows(out))
    (actor,) = below(ACTOR)
    os.kill(actor, signal.SIGKILL)
    job.until(lambda: below(ACTOR) not in ([], [actor]))
    assert job.done()["failed"] == 3
    night.assert_equal(out)


@pytest.mark.endurance
@pytest.mark.parametrize("what", [PREDICTOR, DECODE_WORKER, DECODE_CHILD, WRITER])
def test_one_process_killed_in_the_middle_changes_nothing(
    night: Night, storage: FlakyStorage, tmp_path: Path, what: str
) -> None:
    storage.behave(SLOW)
    out = str(tmp_path / "scores")
    job = night.start(out)
    if what in (PREDICTOR, WRITER):
        job.until(lambda: staged_rows(out) >= PART_ROWS)
    kill_one(night, job, what)
    assert job.done()["failed"] == 3
    night.assert_equal(out)


@pytest.mark.endurance
def test_a_node_killed_in_the_middle_changes_nothing(
    night: Night, storage: FlakyStorage, tmp_path: Path
) -> None:
    storage.behave(SLOW)
    out = str(tmp_path / "scores")
    with started_node(
        f"--address={night.ray.address}", f"--num-cpus={NUM_CPUS}", settings=night.ray.settings
    ) as node:
        deadline = time.monotonic() + 60
        while not (raylets := [pid for pid in descendants(node.pid) if "raylet/raylet" in command_line(pid)]):
            assert time.monotonic() < deadline, "the second node did not start"
            time.sleep(0.1)
        time.sleep(5)  # it joins
        job = night.start(out)
        job.until(lambda: any("fetch_and_decode" in command_line(pid) for pid in descendants(raylets[0])))
        job.until(lambda: staged_rows(out) >= PART_ROWS)
        os.kill(raylets[0], signal.SIGKILL)
        summary = job.done()
    table([line for line in job.log.splitlines() if "lost" in line])
    assert (summary["scored"], summary["failed"]) == (NUM_PICTURES, 3)
    night.assert_equal(out)


# Storage


@pytest.mark.endurance
def test_storage_that_fails_every_tenth_time_loses_nothing(
    night: Night, storage: FlakyStorage, s3_place: str
) -> None:
    unlucky = 7
    storage.behave(
        Faults(
            slow_down=0.03,
            reset=0.03,
            cut=0.03,
            stall=0.02,
            stall_s=1.0,
            cut_below=f"{PICTURES}{unlucky}.png",
        )
    )
    summary = night.start(s3_place).done()
    assert min(storage.failed()[name] for name in ("SlowDown", "reset", "cut", "stall")) > 0, storage.failed()
    table([f"{storage.failed()}"])
    assert (summary["scored"], summary["failed"]) == (NUM_PICTURES, 4)
    failed = read_scores(s3_place).to_table(
        columns=["illust_id", "error_code", "attempts"], filter=pc.field("status") == "failed"
    )
    codes = {row["illust_id"]: (row["error_code"], row["attempts"]) for row in failed.to_pylist()}
    assert codes == {
        MISSING: ("NOT_FOUND", 1),
        BROKEN: ("UNSUPPORTED", 1),
        CUT: ("TRUNCATED", 1),
        unlucky: ("FETCH", 1),
    }
    storage.behave()
    again = night.start(s3_place).done()
    assert (again["scored"], again["retry"], again["failed"]) == (2, 2, 1)
    night.assert_equal(s3_place)


@pytest.mark.endurance
def test_credentials_that_expire_in_the_middle_publish_nothing_and_cost_nothing(
    night: Night, storage: FlakyStorage, tmp_path: Path
) -> None:
    out = str(tmp_path / "scores")
    storage.behave(Faults(expired_below=PICTURES, expired_after=100))
    job = night.start(out)
    assert job.wait() == 3
    assert_one_clear_line(job, "FORBIDDEN")
    assert live_number(Folder(out)) == 0
    kept = kept_rows(out)
    assert kept > 0
    storage.behave()
    assert night.start(out).done()["resumed"] == kept
    night.assert_equal(out)


def assert_one_clear_line(job: Job, *words: str) -> None:
    """Of the job itself, last on standard error, and no traceback."""
    said = [line for line in job.log.splitlines() if line.startswith("jobs.")]
    assert len(said) == 1, job.log[-3000:]
    assert all(word in said[0] for word in words), said
    assert "Traceback" not in job.log, job.log[-5000:]
    assert job.summary["exit_code"] == job.process.returncode


@pytest.mark.endurance
@pytest.mark.parametrize("below", ["staged", "embeddings", "scores", "snapshots"])
def test_a_place_that_may_not_be_written_publishes_nothing(
    night: Night, storage: FlakyStorage, s3_place: str, below: str
) -> None:
    storage.behave(Faults(unwritable=f"{s3_place.removeprefix('s3://')}/{below}/"))
    job = night.start(s3_place)
    assert job.wait() == 2
    assert_one_clear_line(job, BUCKET, "refused")
    assert live_number(Folder(s3_place)) == 0
    storage.behave()
    night.start(s3_place).done()
    night.assert_equal(s3_place)


@pytest.mark.endurance
def test_a_store_that_is_full_publishes_nothing(night: Night, storage: FlakyStorage, s3_place: str) -> None:
    storage.behave(
        Faults(
            unwritable=f"{s3_place.removeprefix('s3://')}/embeddings/", unwritable_code="InsufficientStorage"
        )
    )
    job = night.start(s3_place)
    assert job.wait() == 1
    assert_one_clear_line(job, BUCKET, "InsufficientStorage")
    assert live_number(Folder(s3_place)) == 0
    storage.behave()
    night.start(s3_place).done()
    night.assert_equal(s3_place)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.endurance
def test_a_full_disk_publishes_nothing_and_what_fits_is_kept(night: Night, small_disk: Path) -> None:
    out = str(small_disk / "scores")
    job = night.start(out)
    assert job.wait() == 1
    assert_one_clear_line(job, "No space left", out)
    assert live_number(Folder(out)) == 0
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    kept = kept_rows(out)
    assert kept > 0
    assert night.start(out).done()["resumed"] == kept
    night.assert_equal(out)


# Pictures


def poison(*kinds: str) -> dict[int, tuple[bytes | None, set[str]]]:
    """Id -> content and the code that it gets; a fifth of 200."""
    fine = picture(1, 40)
    sorts: list[tuple[bytes | None, set[str]]] = [
        (b"", {"EMPTY"}),
        (None, {"NOT_FOUND"}),
        (b"GIF89a", {"TRUNCATED"}),
        (b"<svg></svg>", {"UNSUPPORTED"}),
        (fine[:-200], {"TRUNCATED"}),
        (fine[:60] + bytes(100) + fine[160:], {"CORRUPT"}),
        (png(20_000, 20_000), {"TOO_LARGE"}),
    ]
    codes = {"exits": "CRASHED", "allocates": "TOO_LARGE", "never returns": "CRASHED"}
    sorts += [(fine + kind.encode(), {codes[kind]}) for kind in kinds]
    return {5 * i + 2: sorts[i % len(sorts)] for i in range(40)}


def score_poisoned(
    night: Night, s3: Any, tmp_path: Path, bad: Mapping[int, tuple[bytes | None, set[str]]]
) -> None:
    prefix = f"poisoned-{tmp_path.name}"
    contents = {f"pictures/{i}.png": bad[i][0] if i in bad else picture(i) for i in range(200)}
    upload_pictures(s3, prefix, {name: content for name, content in contents.items() if content is not None})
    catalog, out = upload_catalog(s3, prefix, catalog_rows(range(200))), str(tmp_path / "scores")
    summary = night.start(out, catalog=catalog).done()
    assert (summary["scored"], summary["failed"]) == (200, 40)
    verify(VerifyConfig(scores=out, catalog=catalog))
    rows = read_scores(out).to_table(columns=["illust_id", "error_code"]).to_pylist()
    assert {row["illust_id"]: {row["error_code"]} for row in rows} == {
        i: bad[i][1] if i in bad else {None} for i in range(200)
    }
    fine = pc.field("illust_id").isin([i for i in range(200) if i not in {*bad, MISSING, BROKEN, CUT}])
    pairs = [tuple(part.filter(fine) for part in tables_of(place)) for place in (out, night.reference)]
    same = [tuple(part.filter(pc.less(part["illust_id"], 200)) for part in pair) for pair in pairs]
    assert_same(same[0], same[1])  # type: ignore[arg-type]


@pytest.mark.slow
def test_pictures_that_kill_their_decoder_and_a_fifth_corrupt_touch_no_neighbour(
    night: Night, s3: Any, tmp_path: Path
) -> None:
    score_poisoned(night, s3, tmp_path, poison("exits", "allocates"))


@pytest.mark.endurance
def test_pictures_that_never_return_are_given_up_in_time(night: Night, s3: Any, tmp_path: Path) -> None:
    started = time.monotonic()
    bad = poison("exits", "allocates")
    bad[2] = (picture(1) + b"never returns", {"CRASHED"})
    bad[3] = (picture(1) + b"never returns", {"CRASHED"})  # in the same task
    del bad[7]
    score_poisoned(night, s3, tmp_path, bad)
    assert time.monotonic() - started < night.seconds + 2 * decoder.TIMEOUT_S + 30


# Other nights


def upload_tonight(s3: Any, name: str, rows: list[tuple[int, str, str]]) -> str:
    """A catalog of the same pictures at another place."""
    return upload_catalog(
        s3,
        f"faults-{name}",
        [(i, f"s3://{BUCKET}/{PREFIX}/{uri}", etag) for i, uri, etag in rows],
        f"{name}.parquet",
    )


ROOTED = ("--image-root", f"s3://{BUCKET}/{PREFIX}")


@pytest.mark.endurance
def test_midnight_falls_while_half_is_staged(
    night: Night, storage: FlakyStorage, s3: Any, tmp_path: Path
) -> None:
    """The next catalog has another name, lacks rows, has new ones, and some changed pictures: what is staged
    and still wanted is used."""
    rows = catalog_rows()
    tonight = upload_tonight(s3, "tonight", rows)
    changed = {i: (i, f"pictures/{i + 1}.png", f"v{i}-new") for i in range(40, 140, 2)}
    removed = set(range(200, 230))
    new = [(1000 + i, f"pictures/{i}.png", f"v{1000 + i}") for i in range(60, 70)]
    storage.behave(SLOW)
    out = str(tmp_path / "scores")
    job = night.start(out, *ROOTED, catalog=tonight)
    job.until(lambda: staged_rows(out) >= NUM_PICTURES // 3)
    job.kill()
    settle(night.ray)
    storage.behave()
    staged = pa.concat_tables(
        [pq.read_table(f"{out}/{r.scores.path}") for r in staged_receipts(Folder(out))]
    ).to_pylist()
    usable = (
        {r["illust_id"] for r in staged if r["error_code"] not in FETCH_ERROR_CODES} - set(changed) - removed
    )
    tomorrow = upload_tonight(
        s3, "tomorrow", [changed.get(row[0], row) for row in rows if row[0] not in removed] + new
    )
    summary = night.start(out, *ROOTED, catalog=tomorrow).done()
    assert (summary["resumed"], summary["planned"]) == (len(usable), NUM_PICTURES - len(removed) + len(new))
    verify(VerifyConfig(scores=out, catalog=tomorrow))
    shows = {i: int(uri[9:-4]) for i, uri, _ in [*rows, *changed.values(), *new]}
    ours, theirs = tables_of(out)[0], tables_of(night.reference)[0]
    probs = {row["illust_id"]: row["bookmark_probs"] for row in theirs.to_pylist()}
    for row in ours.to_pylist():
        assert row["bookmark_probs"] == pytest.approx(probs[shows[row["illust_id"]]], abs=1e-5), row[
            "illust_id"
        ]
        assert row["fingerprint"].endswith("-new") == (row["illust_id"] in changed)


@pytest.mark.endurance
def test_a_truncated_catalog_and_an_altered_file_publish_nothing(
    night: Night, s3: Any, tmp_path: Path
) -> None:
    out = str(tmp_path / "scores")
    shutil.copytree(night.reference, out)
    truncated = night.start(
        out, *ROOTED, catalog=upload_tonight(s3, "truncated", catalog_rows(range(NUM_PICTURES // 2)))
    )
    assert truncated.wait() == 3
    assert_one_clear_line(truncated, "--max-removed", "150 of 300")
    night.assert_equal(out)
    (file,) = Folder(out).entries("scores")
    path = Path(out) / file.path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(VerifyError, match=file.path):
        verify(VerifyConfig(scores=out))
    rows = catalog_rows()
    rows[50] = (50, rows[51][1], "new")
    refused = night.start(out, *ROOTED, catalog=upload_tonight(s3, "changed", rows))
    assert refused.wait() == 2
    assert_one_clear_line(refused, file.path, "altered", "--full")
    assert live_number(Folder(out)) == 1
    night.start(out, *ROOTED, "--full", catalog=upload_tonight(s3, "changed", rows)).done()
    assert verify(VerifyConfig(scores=out))["snapshot"] == 2


@pytest.mark.endurance
def test_of_two_drivers_racing_one_publishes_and_the_other_finds_nothing_to_do(
    night: Night, storage: FlakyStorage, s3: Any, s3_place: str
) -> None:
    catalog = upload_tonight(
        s3, "raced", [row for row in catalog_rows() if row[0] != MISSING]
    )  # none is due the night after
    storage.behave(Faults(meet_at="/snapshots/", meet_number=2))
    jobs = [night.start(s3_place, *ROOTED, catalog=catalog) for _ in range(2)]
    codes = [job.wait() for job in jobs]
    table([job.log for job in jobs])
    assert sorted(codes) == [0, 4]
    loser = jobs[codes.index(4)]
    assert_one_clear_line(loser, "another run published snapshot 1")
    verify(VerifyConfig(scores=s3_place, catalog=catalog))
    before = Folder(s3_place).entries()
    again = night.start(s3_place, *ROOTED, catalog=catalog).done()
    assert (again["snapshot"], again["planned"], again["carried"]) == (1, 0, NUM_PICTURES - 1)
    assert Folder(s3_place).entries() == before


# prepare

HEADS = """
[[heads]]
name = "bookmark"
column = "bookmarks"
kind = "bins"
size = 3
"""


@pytest.mark.endurance
def test_a_killed_prepare_is_resumed_and_the_dataset_holds_every_row_once(
    night: Night, storage: FlakyStorage, tmp_path: Path
) -> None:
    (tmp_path / "prepare.toml").write_text(HEADS)
    words = [
        "--catalog",
        night.catalog,
        "--config",
        str(tmp_path / "prepare.toml"),
        "--image-size",
        "2048",
    ]  # pieces of 66 rows
    whole, out = tmp_path / "whole", tmp_path / "dataset"
    night.ray.start("prepare", *words, "--out", str(whole)).done()
    storage.behave(SLOW)
    storage.forget()
    job = night.ray.start("prepare", *words, "--out", str(out))
    receipts = job.until(lambda: list(out.glob("staged/*/piece-*.json")))
    job.kill()
    assert not (out / "dataset.json").exists()
    settle(night.ray)
    storage.behave()
    receipts = list(out.glob("staged/*/piece-*.json"))
    kept, fetched = (
        sum(json.loads(path.read_text())["rows"] for path in receipts),
        storage.served(PICTURES).total(),
    )
    night.ray.start("prepare", *words, "--out", str(out)).done()
    assert dataset_rows(out) == dataset_rows(whole)
    assert len(dataset_rows(out)) == NUM_PICTURES - 3
    twice = storage.served(PICTURES).total() - (NUM_PICTURES - 1)
    table([f"prepare killed: {kept} rows kept of {fetched} fetched, {twice} fetched twice"])
    assert twice <= fetched - kept + 1  # the missing picture counts as a row


def dataset_rows(place: Path) -> list[tuple[int, str, bytes]]:
    """(id, split, image) of every row that dataset.json names, sorted."""
    shards = json.loads((place / "dataset.json").read_text())["shards"]
    rows = [
        (row["illust_id"], shard["split"], row["image"])
        for shard in shards
        for row in pq.read_table(place / shard["path"]).to_pylist()
    ]
    return sorted(rows)
