"""score with real Ray Data: every key once, a bad image harms nobody, a row depends on its image alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score import read_embeddings, read_scores
from pix2score.errors import DataError, LimitError
from pix2score.images.decoder import Decoder
from pix2score.images.source import image_source
from pix2score.model.folder import load_model
from pix2score.model.predictor import Predictor
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.manifest import live
from pix2score.snapshots.verify import verify
from tests.support.chain import EMBEDDING_DIM, Chain

pytestmark = pytest.mark.usefixtures("ray_session")
EXPECTED_FAILURES = {"EMPTY": 1, "TRUNCATED": 2, "UNSUPPORTED": 1, "NOT_FOUND": 1, "FORBIDDEN": 1}
HEADS = ("bookmark", "view", "sanity")


def rows_by_key(place: str) -> dict[tuple[Any, int], dict[str, Any]]:
    return {(row["illust_id"], row["page"]): row for row in read_scores(place).to_table().to_pylist()}


def newest_uris(chain: Chain) -> dict[tuple[int, int], str]:
    return {
        (r["illust_id"], r["page"]): r["uri"]
        for r in chain.catalog_rows().to_pylist()
        if r["illust_id"] is not None
    }


def difference(left: dict[Any, dict[str, Any]], right: dict[Any, dict[str, Any]]) -> float:
    """Largest difference of any probability; the keys and statuses must be equal."""
    assert left.keys() == right.keys()
    assert all(left[key]["status"] == right[key]["status"] for key in left)
    good = [key for key, row in left.items() if row["status"] == "ok"]
    return max(
        float(np.abs(np.subtract(left[key][f"{head}_probs"], right[key][f"{head}_probs"])).max())
        for key in good
        for head in HEADS
    )


def test_s1_every_key_of_the_catalog_stands_exactly_once(chain: Chain) -> None:
    table = read_scores(chain.scores).to_table()
    keys = set(zip(table.column("illust_id").to_pylist(), table.column("page").to_pylist(), strict=True))
    assert len(keys) == table.num_rows
    assert keys == set(newest_uris(chain))
    assert verify(VerifyConfig(scores=chain.scores, catalog=chain.catalog))["rows"] == len(keys)


def test_bad_images_are_rows_with_their_code_and_no_prediction(chain: Chain) -> None:
    failed = [row for row in rows_by_key(chain.scores).values() if row["status"] == "failed"]
    assert {
        code: sum(row["error_code"] == code for row in failed) for code in EXPECTED_FAILURES
    } == EXPECTED_FAILURES
    assert len(failed) == sum(EXPECTED_FAILURES.values()) == chain.scored["failed"]
    assert all(
        row["error_detail"] and row["bookmark_probs"] is None and row["bookmark_bin"] is None
        for row in failed
    )


def test_s5_p1_every_good_row_is_what_the_model_says_of_its_image_alone(chain: Chain) -> None:
    card, weights = load_model(chain.model)
    predictor = Predictor(card, weights, batch_size=1)
    decode, source, uris = Decoder(card.preprocess), image_source(chain.catalog, ()), newest_uris(chain)
    rows = {key: row for key, row in rows_by_key(chain.scores).items() if row["status"] == "ok"}
    assert len(rows) == chain.drawn.num_rows - 2 - len(EXPECTED_FAILURES) - 1
    size = card.preprocess.size
    for key, row in list(rows.items())[::4]:
        (content,) = source.read_many([uris[key]])
        assert isinstance(content, bytes)
        pixels = np.frombuffer(decode(content), np.uint8).reshape(1, size, size, 3)
        for name, head in predictor.predict(pixels).heads.items():
            assert np.abs(head.probs[0] - row[f"{name}_probs"]).max() < 1e-5
            assert row[f"{name}_bin"] == int(np.argmax(row[f"{name}_probs"]))


@pytest.mark.slow
def test_s6_batch_size_piece_size_and_limit_change_no_row(chain: Chain, tmp_path: Path) -> None:
    other = ScoreConfig(
        catalog=chain.catalog, model=chain.model, out=str(tmp_path), batch_size=5, part_rows=1000
    )
    score(other)
    assert difference(rows_by_key(chain.scores), rows_by_key(str(tmp_path))) < 1e-5


def test_embeddings_join_scores_by_key_and_run(chain: Chain) -> None:
    good = {key for key, row in rows_by_key(chain.scores).items() if row["status"] == "ok"}
    table = read_embeddings(chain.scores).to_table()
    keys = list(zip(table.column("illust_id").to_pylist(), table.column("page").to_pylist(), strict=True))
    assert len(keys) == len(set(keys))
    assert set(keys) == good
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), EMBEDDING_DIM)
    run = chain.scored["run"]
    assert {row["run"] for row in rows_by_key(chain.scores).values()} == {run}
    assert all(
        file.path.startswith(f"embeddings/{run}/")
        for file in live(chain.scores).files
        if file.table == "embeddings"
    )


def test_scores_are_sorted_by_key_and_staging_is_cleared(chain: Chain) -> None:
    table = read_scores(chain.scores).to_table()
    keys = list(zip(table.column("illust_id").to_pylist(), table.column("page").to_pylist(), strict=True))
    assert keys == sorted(keys)
    assert not (Path(chain.scores) / "staged").exists()


def test_manifest_summary_and_result_agree(chain: Chain) -> None:
    manifest = live(chain.scores).manifest
    summary = json.loads((Path(chain.scores) / "runs" / chain.scored["run"] / "summary.json").read_text())
    assert summary == json.loads(json.dumps(chain.scored))
    assert manifest["counts"]["rows"] == summary["scored"] == len(rows_by_key(chain.scores))
    assert manifest["counts"]["failed_by_code"] == EXPECTED_FAILURES
    assert manifest["model_version"] == chain.trained["model_version"] == summary["model_version"]
    assert manifest["catalog"]["files"][0]["path"] == "catalog.parquet"


def test_expected_values_and_scores_follow_the_probabilities(chain: Chain) -> None:
    heads = {head.name: head for head in live(chain.scores).layout.heads}
    for row in rows_by_key(chain.scores).values():
        if row["status"] == "ok":
            for name, head in heads.items():
                assert np.isclose(
                    row[f"{name}_expected"], np.dot(row[f"{name}_probs"], head.typical), rtol=1e-4
                )
                assert 0 <= row[f"{name}_score"] <= 1
                assert row[f"{name}_median"] == int((np.cumsum(row[f"{name}_probs"]) < 0.5).sum())


@pytest.mark.slow
def test_a_second_night_publishes_the_next_snapshot_with_equal_rows(chain: Chain, tmp_path: Path) -> None:
    place = str(tmp_path / "scores")
    shutil.copytree(chain.scores, place)
    again = score(ScoreConfig(catalog=chain.catalog, model=chain.model, out=place))
    assert (again["snapshot"], live_number_of(place)) == (2, 2)
    assert difference(rows_by_key(chain.scores), rows_by_key(place)) < 1e-5
    assert verify(VerifyConfig(scores=place, catalog=chain.catalog))["snapshot"] == 2


def live_number_of(place: str) -> int:
    return live(place).number


def with_rows(chain: Chain, folder: Path, rows: pa.Table) -> str:
    """A catalog of other rows whose images are those of the chain."""
    folder.mkdir()
    (folder / "images").symlink_to(Path(chain.catalog) / "images")
    pq.write_table(rows, folder / "catalog.parquet")
    return str(folder)


@pytest.mark.slow
def test_s9_a_truncated_catalog_cannot_empty_the_scores(chain: Chain, tmp_path: Path) -> None:
    place = str(tmp_path / "scores")
    shutil.copytree(chain.scores, place)
    truncated = with_rows(chain, tmp_path / "catalog", chain.catalog_rows().slice(0, 60))
    config = {"catalog": truncated, "model": chain.model, "out": place, "image_root": (chain.catalog,)}
    with pytest.raises(LimitError, match="--max-removed"):
        score(ScoreConfig(**config))
    assert live(place).number == 1
    allowed = score(ScoreConfig(**config, max_removed=1.0, note="the other half was taken down"))
    assert live(place).manifest["note"] == "the other half was taken down"
    assert allowed["snapshot"] == 2
    assert allowed["removed"] == len(rows_by_key(chain.scores)) - len(rows_by_key(place)) > 60


@pytest.mark.slow
def test_too_many_failures_publish_nothing_and_leave_a_summary(chain: Chain, tmp_path: Path) -> None:
    rows = chain.catalog_rows()
    missing = pa.array([f"gone/{i}.png" for i in range(rows.num_rows)])
    broken = with_rows(
        chain, tmp_path / "catalog", rows.set_column(rows.column_names.index("uri"), "uri", missing)
    )
    out = tmp_path / "scores"
    with pytest.raises(LimitError, match="NOT_FOUND"):
        score(ScoreConfig(catalog=broken, model=chain.model, out=str(out)))
    assert not (out / "snapshots").exists()
    (summary,) = (json.loads(path.read_text()) for path in out.glob("runs/*/summary.json"))
    assert (summary["error"], summary["exit_code"], summary["snapshot"]) == ("LimitError", 3, None)


def test_limit_publishes_nothing(chain: Chain, tmp_path: Path) -> None:
    result = score(ScoreConfig(catalog=chain.catalog, model=chain.model, out=str(tmp_path), limit=10))
    assert (result["scored"], result["snapshot"]) == (10, None)
    assert not (tmp_path / "snapshots").exists()


@pytest.mark.slow
def test_images_embedded_in_the_catalog_score_as_their_files_do(chain: Chain, tmp_path: Path) -> None:
    rows = chain.catalog_rows()
    contents = image_source(chain.catalog, ()).read_many(rows.column("uri").to_pylist())
    images = pa.array([c if isinstance(c, bytes) else None for c in contents], pa.binary())
    embedded = rows.drop_columns(["uri", "etag"]).append_column("image", images)
    pq.write_table(embedded, tmp_path / "catalog.parquet", row_group_size=17)
    result = score(
        ScoreConfig(
            catalog=str(tmp_path / "catalog.parquet"), model=chain.model, out=str(tmp_path / "scores")
        )
    )
    theirs, ours = rows_by_key(chain.scores), rows_by_key(str(tmp_path / "scores"))
    assert difference(theirs, ours) < 1e-5
    assert live(str(tmp_path / "scores")).manifest["fingerprint_kind"] == "sha256"
    assert all(row["fingerprint"].startswith("sha256:") for row in ours.values() if row["status"] == "ok")
    assert result["failed"] == chain.scored["failed"]


@pytest.mark.slow
def test_string_ids_and_other_column_names_work(chain: Chain, tmp_path: Path) -> None:
    from pix2score.catalog.catalog import Columns

    rows = chain.catalog_rows().slice(0, 40).drop_columns(["page"])
    names = {"illust_id": "pid", "uri": "path", "etag": "tag"}
    ids = pa.array([f"work-{i}" for i in range(rows.num_rows)])
    rows = rows.set_column(0, "illust_id", ids).rename_columns([names.get(n, n) for n in rows.column_names])
    catalog = with_rows(chain, tmp_path / "catalog", rows)
    columns = Columns(id="pid", uri="path", fingerprint="tag")
    out = str(tmp_path / "scores")
    score(
        ScoreConfig(catalog=catalog, model=chain.model, out=out, image_root=(chain.catalog,), columns=columns)
    )
    assert read_scores(out).schema.field("illust_id").type == pa.string()
    assert verify(VerifyConfig(scores=out, catalog=catalog))["rows"] == 40


def test_an_altered_model_is_refused_and_nothing_is_written(chain: Chain, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(chain.model, model)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(DataError, match="altered"):
        score(ScoreConfig(catalog=chain.catalog, model=str(model), out=str(tmp_path / "scores")))
    assert not (tmp_path / "scores").exists()


def test_a_catalog_that_changes_between_plan_and_fetch_is_not_mixed_up(tmp_path: Path) -> None:
    from pix2score.catalog.catalog import Columns, open_catalog
    from pix2score.catalog.contents import ImageRows
    from pix2score.images.source import ImageSource

    place = tmp_path / "catalog.parquet"
    pq.write_table(pa.table({"illust_id": [1, 2], "image": [b"one", b"two"]}), place)
    catalog = open_catalog(str(place), Columns())
    images = ImageRows.of(catalog, ImageSource(str(tmp_path)))
    pq.write_table(pa.table({"illust_id": [2, 1], "image": [b"two", b"another one"]}), place)
    with pytest.raises(DataError, match="changed while it was scored"):
        list(images.contents(pa.table({"file": ["catalog.parquet"], "row": [0]})))


def test_a_damaged_row_group_fails_its_own_rows_only(tmp_path: Path) -> None:
    from pix2score.catalog.catalog import Columns, open_catalog
    from pix2score.catalog.contents import ImageRows
    from pix2score.errors import ImageFailure
    from pix2score.images.source import ImageSource

    place = tmp_path / "catalog.parquet"
    images = [bytes([i]) * 5000 for i in range(6)]
    table = pa.table({"illust_id": range(6), "image": images, "etag": ["x"] * 6})
    pq.write_table(table, place, row_group_size=2, compression="none", use_dictionary=False)
    data = bytearray(place.read_bytes())
    start = pq.read_metadata(place).row_group(1).column(1).data_page_offset
    data[start : start + 30] = b"\xff" * 30
    place.write_bytes(data)
    catalog = open_catalog(str(place), Columns())
    rows = pa.table({"file": ["catalog.parquet"] * 6, "row": range(6)})
    contents = list(ImageRows.of(catalog, ImageSource(str(tmp_path))).contents(rows))
    assert [c for c in contents if isinstance(c, bytes)] == [images[i] for i in (0, 1, 4, 5)]
    assert [c.code for c in contents if isinstance(c, ImageFailure)] == ["CORRUPT", "CORRUPT"]


def test_an_embedding_beyond_float16_is_a_failed_row() -> None:
    from pix2score.model.prediction import Prediction
    from pix2score.score.stages import _scored
    from pix2score.snapshots.tables import Layout

    rows = pa.table(
        {
            "illust_id": [1, 2],
            "page": pa.array([0, 0], pa.int32()),
            "fingerprint": ["a", "b"],
            "attempts": pa.array([0, 0], pa.int16()),
        }
    )
    rows = rows.append_column("error_code", pa.nulls(2, pa.string())).append_column(
        "error_detail", pa.nulls(2, pa.string())
    )
    embedding = np.array([[1.0, 2.0], [70000.0, 1.0]], np.float32)
    prediction = Prediction({}, embedding, np.array([True, True]))
    scored = _scored(rows, np.array([0, 1]), prediction, "run", Layout(pa.int64(), (), 2, "float16"))
    assert scored.column("status").to_pylist() == ["ok", "failed"]
    assert scored.column("error_code").to_pylist() == [None, "NONFINITE"]
    assert "float16 ends at 65,504" in scored.column("error_detail")[1].as_py()
    assert scored.column("embedding_run").to_pylist() == ["run", None]
    unsure = Prediction({}, np.ones((2, 2), np.float32), np.array([True, False]))
    lost = _scored(rows, np.array([0, 1]), unsure, "run", Layout(pa.int64(), (), 2, "float16"))
    assert lost.column("error_detail").to_pylist() == [None, "the model's output is NaN or infinite"]
    assert scored.column("embedding").to_pylist() == [[1.0, 2.0], None]
