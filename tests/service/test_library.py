"""Neighbours and pictures of the live snapshot over HTTP, and how a newer one takes its place."""

from __future__ import annotations

import asyncio
import io
import shutil
from pathlib import Path

import httpx
import pytest
from PIL import Image

import pix2score
from pix2score.errors import ConfigError, DataError
from pix2score.service import library as library_module
from pix2score.service.library import Library, check_scores
from pix2score.snapshots.manifest import live, publish, without_publication
from pix2score.storage.folder import Folder
from tests.support.builders import write_catalog
from tests.support.chain import Chain
from tests.support.services import parts


def ok_keys(chain: Chain) -> list[tuple[int, int]]:
    rows = pix2score.read_scores(chain.scores).to_table().to_pylist()
    return [(row["illust_id"], row["page"]) for row in rows if row["status"] == "ok"]


def test_neighbours_of_an_id_are_those_of_the_library(service: httpx.Client, chain: Chain) -> None:
    illust_id, page = ok_keys(chain)[0]
    response = service.get("/similar", params={"id": illust_id, "page": page, "k": 5})
    content = response.json()
    wanted = pix2score.similar(chain.scores, (illust_id, page), 5).to_pylist()
    assert response.status_code == 200
    assert content["of"] == {"illust_id": illust_id, "page": page}
    assert content["snapshot"] == chain.scored["snapshot"]
    assert [(row["illust_id"], row["page"]) for row in content["neighbours"]] == [
        (row["illust_id"], row["page"]) for row in wanted
    ]
    assert [row["similarity"] for row in content["neighbours"]] == [row["similarity"] for row in wanted]


def test_a_picture_of_the_catalog_finds_itself_first(service: httpx.Client, chain: Chain) -> None:
    uris = {(r["illust_id"], r["page"]): r["uri"] for r in chain.catalog_rows().to_pylist()}
    key = ok_keys(chain)[3]
    data = (Path(chain.catalog) / uris[key]).read_bytes()
    content = service.post("/similar?k=3", files=parts({"own.png": data})).json()
    first = content["neighbours"][0]
    assert content["of"] == {"image": "own.png"}
    assert len(content["neighbours"]) == 3
    assert first["similarity"] > 0.9999
    shown = service.get(first["picture"])
    assert (shown.status_code, shown.headers["content-type"]) == (200, "image/jpeg")


@pytest.mark.parametrize("size", [64, 256])
def test_a_picture_is_a_small_jpeg(service: httpx.Client, chain: Chain, size: int) -> None:
    illust_id, page = ok_keys(chain)[0]
    response = service.get("/picture", params={"id": illust_id, "page": page, "size": size})
    assert response.status_code == 200
    shown = Image.open(io.BytesIO(response.content))
    assert (shown.format, shown.size) == ("JPEG", (size, size))
    assert "max-age" in response.headers["cache-control"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/similar?id=99", 404),
        ("/similar?id=x", 400),
        (f"/similar?id={2**70}", 400),
        ("/similar", 400),
        ("/similar?id=99&k=0", 400),
        ("/similar?id=99&k=100000", 400),
        ("/picture?id=99", 404),
        ("/picture?id=x", 400),
        ("/picture?id=99&size=4000", 400),
        ("/nothing", 404),
    ],
)
def test_what_is_not_there_is_one_line(service: httpx.Client, path: str, status: int) -> None:
    response = service.get(path)
    assert response.status_code == status
    assert response.json()["error"]["detail"]


def test_a_picture_that_fails_has_no_thumbnail(service: httpx.Client, chain: Chain) -> None:
    rows = pix2score.read_scores(chain.scores).to_table().to_pylist()
    bad = next(row for row in rows if row["error_code"] in ("CORRUPT", "TRUNCATED", "UNSUPPORTED"))
    response = service.get("/picture", params={"id": bad["illust_id"], "page": bad["page"]})
    assert (response.status_code, response.json()["error"]["code"]) == (404, bad["error_code"])


def test_a_newer_snapshot_takes_its_place(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = str(tmp_path / "scores")
    shutil.copytree(chain.scores, scores)
    monkeypatch.setattr(library_module, "FOLLOW_S", 0.05)
    trunk = pix2score.Model.load(chain.model).card.trunk_version

    async def followed() -> tuple[int, int]:
        library = Library(scores, trunk, with_pictures=True)
        library.start()
        before = library.snapshot
        await asyncio.to_thread(publish, Folder(scores), before, without_publication(live(scores)))
        for _ in range(200):
            await asyncio.sleep(0.05)
            if library.snapshot != before:
                break
        after = library.snapshot
        assert library.facts()["pictures"]
        assert isinstance(await library.image(ok_keys(chain)[0]), bytes)
        library.close()
        return before, after

    before, after = asyncio.run(followed())
    assert after == before + 1


def test_pictures_are_those_of_the_catalog_itself_and_not_of_what_lies_beside_it(
    chain: Chain, tmp_path: Path
) -> None:
    """Of a text table or an Iceberg table the folder alone does not say which catalog it was."""
    scores, key, beside = str(tmp_path / "scores"), ok_keys(chain)[0], tmp_path / "art"
    shutil.copytree(chain.scores, scores)
    uris = {(r["illust_id"], r["page"]): r["uri"] for r in chain.catalog_rows().to_pylist()}
    beside.mkdir()
    shutil.copy(Path(chain.catalog) / uris[key], beside / "a.png")
    (beside / "mine.csv").write_text(f"illust_id,page,uri\n{key[0]},{key[1]},a.png\n")
    write_catalog(str(beside), {"illust_id": [key[0]], "page": [key[1]], "uri": ["elsewhere.png"]})
    pin = {"uri": str(beside), "files": [], "place": str(beside / "mine.csv")}
    before = live(scores)
    publish(Folder(scores), before.number, without_publication(before) | {"catalog": pin})

    async def looked_up() -> object:
        library = Library(scores, before.manifest["trunk_version"], with_pictures=True)
        library.start()
        for _ in range(200):
            await asyncio.sleep(0.05)
            if library.facts()["pictures"]:
                break
        found = await library.image(key)
        library.close()
        return found

    assert asyncio.run(looked_up()) == (beside / "a.png").read_bytes()


def test_scores_of_another_trunk_are_refused_before_anything_starts(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="they cannot be compared"):
        check_scores(chain.scores, "0123456789ab")
    with pytest.raises(DataError, match="no scores at"):
        check_scores(str(tmp_path), "0123456789ab")
