"""A night, a dataset and a training with everything in a bucket of Google or a container of Azure, each job a
process of its own; and a night of pictures that a web server holds."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pix2score import read_embeddings, read_scores
from pix2score.snapshots.manifest import live
from pix2score.storage import places
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from pix2score.storage.rust_options import storage_options
from tests.support import stores
from tests.support.jobs import summary_of
from tests.support.models import cheap_model
from tests.support.web_server import serving

pytestmark = [pytest.mark.slow, pytest.mark.starts_ray]

NUM_PICTURES = 60


@pytest.fixture(params=["gs", "az"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, empty place; jobs find the store by the standard variables."""
    places._filesystem.cache_clear()  # every test has a server of its own
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "gs":
            with stores.google() as server:
                patch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)
                yield stores.new_place("gs")
        else:
            with stores.azure(tmp_path) as blobs:
                patch.setenv("AZURE_STORAGE_CONNECTION_STRING", blobs.connection_string)
                yield stores.new_place("az")


def pictures() -> dict[str, bytes]:
    """PNG files that differ."""
    made = {}
    for i in range(NUM_PICTURES):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        made[f"img/{i:03}.png"] = out.getvalue()
    return made


def catalog_table(uris: list[str]) -> pa.Table:
    """A row for each uri, and one more whose picture is not there."""
    uris = [*uris, uris[0].replace("000", "absent")]
    ids = range(len(uris))
    columns = {"illust_id": ids, "uri": uris, "artist_id": [i % 20 for i in ids]}
    labels = {"bookmarks": [i * 97 % 4000 for i in ids], "views": [i * 1997 % 90_000 for i in ids]}
    return pa.table({**columns, **labels, "sanity": [i % 3 * 2 for i in ids]})


def uploaded(place: str, tmp_path: Path) -> tuple[str, str]:
    """Catalog with its pictures, and a model, at a place."""
    catalog, model = Folder(f"{place}/catalog"), Folder(f"{place}/model")
    made = pictures()
    for name, data in made.items():
        catalog.publish(name, data)
    catalog.publish("catalog.parquet", parquet_bytes(catalog_table([*made])))
    for path in Path(cheap_model(tmp_path / "model")).iterdir():
        model.publish(path.name, path.read_bytes())
    return catalog.uri, model.uri


def test_nights_and_what_follows_them_in_another_store(store: str, tmp_path: Path) -> None:
    catalog, model = uploaded(store, tmp_path)
    scores, config = f"{store}/scores", f"{store}/score.toml"
    Folder(store).publish(
        "score.toml", f'catalog = "{catalog}"\nmodel = "{model}"\nout = "{scores}"\n'.encode()
    )
    first = summary_of("score", "--config", config, "--part-rows", "20", "--max-failed", "0.5")
    assert (first["scored"], first["failed_by_code"]) == (NUM_PICTURES + 1, {"NOT_FOUND": 1})
    Folder(catalog).publish("img/001.png", pictures()["img/002.png"], replace=True)
    second = summary_of("score", "--config", config, "--full", "--max-failed", "0.5")
    assert (second["snapshot"], second["scored"]) == (first["snapshot"] + 1, NUM_PICTURES + 1)
    assert summary_of("verify", "--scores", scores, "--catalog", catalog)["rows"] == NUM_PICTURES + 1
    table = read_scores(scores).to_table().sort_by("illust_id")
    assert table.column("status").to_pylist() == ["ok"] * NUM_PICTURES + ["failed"]
    assert table.column("bookmark_expected")[1] == table.column("bookmark_expected")[2]
    assert read_embeddings(scores).count_rows() == NUM_PICTURES
    summary_of("index", "--scores", scores)
    similar = summary_of("similar", "--scores", scores, "--id", "1", "--num", "1")
    assert "2" in json.dumps(similar)
    assert (
        summary_of("vacuum", "--scores", scores, "--keep", "1", "--keep-staged", "0d")["snapshots_removed"]
        == 1
    )
    assert summary_of("verify", "--scores", scores)["rows"] == NUM_PICTURES + 1


def test_nights_of_a_delta_table_in_another_store(store: str, tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    pictures_at, model = uploaded(store, tmp_path)
    place, options = f"{store}/table", storage_options(store)
    uris = [f"{pictures_at}/{name}" for name in pictures()]
    rows = catalog_table([*uris, uris[0].replace("img/", "img//")])  # a key that the store's client spells so
    deltalake.write_deltalake(place, rows.slice(0, 20), storage_options=options)
    deltalake.write_deltalake(place, rows.slice(20), storage_options=options, mode="append")
    where = ("--catalog", place, "--image-root", pictures_at, "--model", model, "--out", f"{store}/scores")
    first = summary_of("score", *where, "--max-failed", "0.5")
    assert (first["scored"], first["failed_by_code"]) == (NUM_PICTURES + 2, {"NOT_FOUND": 2})
    deltalake.DeltaTable(place, storage_options=options).delete("illust_id = 3")
    second = summary_of("score", *where, "--max-failed", "0.5")
    assert (second["removed"], second["scored"]) == (1, 2), "what failed is due"
    assert summary_of("verify", "--scores", f"{store}/scores", "--catalog", place)["rows"] == NUM_PICTURES + 1
    details = read_scores(f"{store}/scores").to_table().column("error_detail").to_pylist()
    assert sum("no object whose key has an empty part" in (detail or "") for detail in details) == 1
    assert live(f"{store}/scores").manifest["catalog"]["version"]["version"] == 2


def test_a_model_is_trained_from_a_dataset_in_another_store(store: str, tmp_path: Path) -> None:
    catalog, _ = uploaded(store, tmp_path)
    data, model = f"{store}/dataset", f"{store}/trained"
    sizes = ("--image-size", "32", "--val-fraction", "0.2", "--test-fraction", "0.2")
    assert summary_of("prepare", "--catalog", catalog, "--out", data, *sizes)["rows"]
    small = ("--backbone", "test_resnet", "--input-size", "32", "--batch-size", "8", "--epochs", "2")
    trained = summary_of("train", "--data", data, "--out", model, "--num-workers", "1", *small)
    assert trained["val_loss"] > 0
    assert Folder(model).is_file("model.safetensors")
    assert any("checkpoint" in entry.path for entry in Folder(model).entries())
    scored = summary_of(
        "score", "--catalog", catalog, "--model", model, "--out", f"{store}/s", "--max-failed", "0.5"
    )
    assert scored["scored"] == NUM_PICTURES + 1


def test_a_night_of_pictures_that_a_web_server_holds(tmp_path: Path) -> None:
    with serving(tmp_path) as web, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(web.certificate))
        web.files.update(pictures())
        uris = [web.at(f"/file/{name}") for name in web.files]
        table = catalog_table([*uris, web.at("/redirect/metadata"), "https://elsewhere.test/a.png"])
        (tmp_path / "catalog").mkdir()
        pq.write_table(table, tmp_path / "catalog" / "catalog.parquet")
        where = ("--catalog", str(tmp_path / "catalog"), "--out", str(tmp_path / "scores"))
        model = cheap_model(tmp_path / "model")
        flags = ("--image-root", web.at("/file"), "--image-root", web.at("/redirect"), "--max-failed", "0.5")
        found = summary_of("score", *where, "--model", model, *flags)
        assert found["failed_by_code"] == {"FORBIDDEN": 2, "NOT_FOUND": 1}
        again = summary_of("score", *where, "--model", model, *flags)
    assert again["scored"] == 3, "only what failed is due"
    rows = read_scores(str(tmp_path / "scores")).to_table().to_pylist()
    details = " ".join(row["error_detail"] or "" for row in rows)
    assert "a redirect is not followed" in details
    assert "--image-root allows more places" in details
