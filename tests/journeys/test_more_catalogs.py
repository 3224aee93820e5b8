"""Nights of catalogs that are no plain Parquet, and of pictures that plugins read, as a team runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from pix2score import read_scores
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.manifest import live
from pix2score.snapshots.verify import verify
from tests.support.models import cheap_model
from tests.support.paths import ROOT
from tests.support.pictures import encode, smooth

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def pictures(folder: Path, number: int) -> list[str]:
    names = [f"pictures/{i}.png" for i in range(number)]
    (folder / "pictures").mkdir(parents=True)
    for i, name in enumerate(names):
        Image.new("RGB", (40, 30), (i % 256, 255 - i % 256, 40)).save(folder / name)
    return names


def night(root: Path, catalog: str, **options: Any) -> Mapping[str, Any]:
    return score(ScoreConfig(catalog=catalog, model=str(root / "model"), out=str(root / "scores"), **options))


def status(root: Path) -> dict[int | str, str]:
    rows = (
        read_scores(str(root / "scores")).to_table(columns=["illust_id", "status", "error_code"]).to_pylist()
    )
    return {row["illust_id"]: row["error_code"] or row["status"] for row in rows}


def test_nights_of_a_csv_score_what_changed(ray_session: None, tmp_path: Path) -> None:
    cheap_model(tmp_path / "model", 0)
    names = pictures(tmp_path / "catalog", 6)
    place = tmp_path / "catalog" / "works.csv"

    def written(rows: list[tuple[str, str]]) -> None:
        place.write_text("illust_id,uri,likes\n" + "".join(f"{key},{uri},5\n" for key, uri in rows))

    written([(f"{i:03}", name) for i, name in enumerate(names[:5])])
    assert night(tmp_path, str(place), carry=["likes"])["scored"] == 5
    assert status(tmp_path) == {f"{i:03}": "ok" for i in range(5)}
    assert read_scores(str(tmp_path / "scores")).to_table().column("likes").to_pylist() == [5] * 5
    verify(VerifyConfig(scores=str(tmp_path / "scores"), catalog=str(place)))
    written([*((f"{i:03}", name) for i, name in enumerate(names)), ("007", "pictures/none.png")])
    assert night(tmp_path, str(place), carry=["likes"])["scored"] == 2
    assert status(tmp_path)["007"] == "NOT_FOUND"
    pin = live(str(tmp_path / "scores")).manifest["catalog"]
    assert (pin["place"], pin["uri"]) == (str(place), str(place.parent))


def test_a_night_of_a_delta_table_is_one_version_of_it_whatever_is_committed(
    ray_session: None, tmp_path: Path
) -> None:
    deltalake = pytest.importorskip("deltalake")
    cheap_model(tmp_path / "model", 0)
    place = str(tmp_path / "catalog")
    content = [encode(smooth(20 + i, 30), "JPEG") for i in range(10)]

    def rows(start: int) -> pa.Table:
        return pa.table({"illust_id": pa.array(range(start, start + 10), pa.int64()), "image": content})

    deltalake.write_deltalake(place, rows(0))
    is_over = threading.Event()

    def write() -> None:
        number = 10
        while not is_over.wait(0.05):
            deltalake.write_deltalake(place, rows(number), mode="append")
            deltalake.DeltaTable(place).delete(f"illust_id = {number - 3}")
            number += 10

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = [night(tmp_path, place, max_removed=1.0) for _ in range(2)]
    finally:
        is_over.set()
        writer.join()
    snapshot = live(str(tmp_path / "scores"))
    version = snapshot.manifest["catalog"]["version"]
    table = deltalake.DeltaTable(place, version=version["version"])
    assert deltalake.DeltaTable(place).version() > version["version"] > 0
    wanted = {*pa.table(table.scan(columns=["illust_id"])).column("illust_id").to_pylist()}
    assert status(tmp_path) == dict.fromkeys(wanted, "ok")
    assert found[1]["scored"] > 0


def test_pictures_of_a_format_are_scored_once_its_extra_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    pytest.importorskip("pillow_jxl")
    cheap_model(tmp_path / "model", 0)
    names, catalog = pictures(tmp_path / "catalog", 3), tmp_path / "catalog"
    files = {
        "a.heic": encode(smooth(40, 60), "HEIF"),
        "b.jxl": encode(smooth(40, 60), "JXL"),
        "c.avif": encode(smooth(40, 60), "AVIF"),
        "d.psd": b"8BPS\0\1" + bytes(60),
        "e.heic": encode(smooth(40, 60), "HEIF")[:300],
    }
    for name, data in files.items():
        (catalog / name).write_bytes(data)
    uris = [*names, *files]
    lines = [json.dumps({"illust_id": i, "uri": uri}) + "\n" for i, uri in enumerate(uris)]
    (catalog / "works.jsonl").write_text("".join(lines))
    without = tmp_path / "without"
    without.mkdir()
    for plugin in ("pillow_heif", "pillow_jxl"):
        (without / f"{plugin}.py").write_text("raise ImportError('not installed')\n")

    def told(*before: Path) -> dict[str, Any]:
        command = [sys.executable, "-m", "jobs.score", "--catalog", str(catalog / "works.jsonl")]
        command += ["--model", str(tmp_path / "model"), "--out", str(tmp_path / "scores")]
        path = os.pathsep.join(map(str, [*before, ROOT]))
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": path}
        )
        summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return summary

    assert told(without)["scored"] == 8
    unread = {3: "UNSUPPORTED", 4: "UNSUPPORTED", 6: "UNSUPPORTED", 7: "UNSUPPORTED"}
    assert status(tmp_path) == dict.fromkeys((0, 1, 2, 5), "ok") | unread
    assert told(without)["scored"] == 0
    assert told()["scored"] == 3
    assert status(tmp_path) == dict.fromkeys(range(6), "ok") | {6: "UNSUPPORTED", 7: "TRUNCATED"}
    assert told()["scored"] == 0
    assert told(without)["scored"] == 0
    verify(VerifyConfig(scores=str(tmp_path / "scores"), catalog=str(catalog / "works.jsonl")))
