"""Single pictures get the numbers that a night's job gives them; a bad one is named and stops no other."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image

import pix2score
from pix2score.cli.flags import resolve
from pix2score.errors import ConfigError, DataError, ImageFailure
from pix2score.host import instructions
from pix2score.serve.config import PredictConfig
from pix2score.serve.model import Answer, Model
from pix2score.serve.predict import answer_text, predict
from tests.conftest import BUCKET
from tests.support.chain import Chain
from tests.support.engines import permute_scales, with_engine_files
from tests.support.models import save_settled
from tests.support.torch_helpers import HEADS, card_of, pixels, settled_model


def write_pictures(folder: Path, num_pictures: int = 3) -> list[str]:
    """PNG files of drawn blocks."""
    paths = [str(folder / f"{i}.png") for i in range(num_pictures)]
    for path, image in zip(paths, pixels(num_pictures, size=96), strict=True):
        Image.fromarray(image).save(path)
    return paths


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_settled(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def model(place: str) -> Any:
    loaded = Model.load(place)
    yield loaded
    loaded.close()


def answer_of(model: Model, picture: Any) -> Answer:
    (answer,) = model.predict([picture])
    assert isinstance(answer, Answer), answer
    return answer


def same(a: Answer, b: Answer) -> bool:
    return a.heads == b.heads and np.array_equal(a.embedding, b.embedding)


def test_answers_are_the_numbers_of_the_batch_job(chain: Chain) -> None:
    rows = pix2score.read_scores(chain.scores).to_table().sort_by("illust_id").to_pylist()
    embeddings = {
        (r["illust_id"], r["page"]): r["embedding"]
        for r in pix2score.read_embeddings(chain.scores).to_table().to_pylist()
    }
    catalog = {(r["illust_id"], r["page"]): r["uri"] for r in chain.catalog_rows().to_pylist()}
    loaded = pix2score.Model.load(chain.model)
    failed = 0
    for row in rows:
        key = (row["illust_id"], row["page"])
        (answer,) = loaded.predict([Path(chain.catalog) / catalog[key]])
        if isinstance(answer, ImageFailure):
            # To a night, what lies outside the catalog is forbidden; a person names files anywhere.
            assert answer.code == row["error_code"] or row["error_code"] == "FORBIDDEN"
            failed += 1
            continue
        np.testing.assert_allclose(
            answer.embedding, np.array(embeddings[key], np.float32), rtol=2e-3, atol=2e-3
        )
        for name, head in answer.heads.items():
            np.testing.assert_allclose(head["probs"], row[f"{name}_probs"], atol=1e-5)
            assert head["score"] == pytest.approx(row[f"{name}_score"], abs=1e-5)
            assert head["expected"] == pytest.approx(row[f"{name}_expected"], rel=1e-4)
            assert head["bin"] == row[f"{name}_bin"]
    assert (
        failed
        == pc.sum(
            pix2score.read_scores(chain.scores).to_table().column("status").to_numpy() == "failed"
        ).as_py()
    )
    assert failed < len(rows) - 50


def test_path_bytes_and_picture_give_the_same_answer(model: Model, tmp_path: Path) -> None:
    (path,) = write_pictures(tmp_path, 1)
    from_path = answer_of(model, path)
    assert same(from_path, answer_of(model, Path(path)))
    assert same(from_path, answer_of(model, Path(path).read_bytes()))
    assert same(from_path, answer_of(model, Image.open(path)))


@pytest.mark.parametrize("orientation", [3, 6])
def test_an_open_picture_is_turned_and_laid_over_white_as_its_bytes_are(
    model: Model, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    rgba = np.concatenate(
        [pixels(1, size=64)[0], np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))[:, :, None]], axis=2
    )
    out = io.BytesIO()
    Image.fromarray(rgba[:, :48]).save(out, "PNG", exif=exif)
    picture = Image.open(io.BytesIO(out.getvalue()))
    assert same(answer_of(model, out.getvalue()), answer_of(model, picture))


def test_answers_differ_between_pictures_and_keep_their_order(model: Model, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path)
    together = model.predict(paths)
    alone = [answer_of(model, path) for path in paths]
    assert all(isinstance(a, Answer) and same(a, b) for a, b in zip(together, alone, strict=True))
    assert not same(alone[0], alone[1])


def test_an_unreadable_picture_is_a_failure_in_its_place(model: Model, tmp_path: Path) -> None:
    good, other = write_pictures(tmp_path, 2)
    answers = model.predict([good, b"not an image", str(tmp_path / "none.png"), b"", "ftp://x/y", other])
    codes = [answer.code if isinstance(answer, ImageFailure) else "ok" for answer in answers]
    assert codes == ["ok", "UNSUPPORTED", "NOT_FOUND", "EMPTY", "FORBIDDEN", "ok"]


def test_a_head_answer_has_its_label_and_the_numbers_of_its_bin(model: Model, tmp_path: Path) -> None:
    heads = answer_of(model, write_pictures(tmp_path, 1)[0]).heads
    assert set(heads) == {"bookmark", "sanity"}
    for spec in HEADS:
        head = heads[spec.name]
        assert head["bin"] == int(np.argmax(head["probs"]))
        assert head["label"] == spec.legend()[str(head["bin"])]
        assert sum(head["probs"]) == pytest.approx(1, abs=1e-5)
        assert len(head["probs"]) == spec.num_bins


def test_a_picture_on_s3_is_read(place: str, s3: Any, tmp_path: Path) -> None:
    (path,) = write_pictures(tmp_path, 1)
    s3.upload_file(path, BUCKET, "single/0.png")
    loaded = Model.load(place)
    assert same(answer_of(loaded, f"s3://{BUCKET}/single/0.png"), answer_of(loaded, path))
    (missing,) = loaded.predict([f"s3://{BUCKET}/single/none.png"])
    assert isinstance(missing, ImageFailure)
    assert missing.code == "NOT_FOUND"


def run_predict(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.predict", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


def test_json_has_the_reference_format_and_every_number(place: str, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path, 2)
    done = run_predict("--model", place, "--json", *paths)
    assert done.returncode == 0, done.stderr
    *answers, summary = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["image"] for answer in answers] == paths
    assert answers[0]["bookmark_predict"] == {"0": "0-10", "1": "10-100", "2": "100-1000", "3": "1000-∞"}
    assert answers[0]["sanity_predict"] == {"0": "0", "1": "1", "2": "2"}
    assert set(answers[0]["bookmark"]) == {"bin", "label", "probs", "score", "expected"}
    assert (summary["job"], summary["images"], summary["failed"]) == ("predict", 2, 0)


def test_a_bad_image_is_named_after_the_others_are_done_and_the_job_exits_2(
    place: str, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    good, other = write_pictures(tmp_path, 2)
    done = run_predict("--model", place, good, str(bad), other)
    assert done.returncode == 2
    assert f"{bad}: CORRUPT" in done.stderr
    assert "Traceback" not in done.stderr
    assert good in done.stdout
    assert other in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["failed"] == 1


def test_what_is_no_picture_is_named(place: str, tmp_path: Path) -> None:
    page, pointer, picture = tmp_path / "page.jpg", tmp_path / "pointer.png", tmp_path / "picture.avif"
    page.write_text("<!DOCTYPE html><html><body>403</body></html>")
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    Image.fromarray(pixels(1, size=96)[0]).save(picture)
    done = run_predict("--model", place, *map(str, (page, pointer, picture)))
    assert done.returncode == 2
    assert f"{page}: UNSUPPORTED: an HTML page" in done.stderr
    assert f"{pointer}: UNSUPPORTED: a Git LFS pointer" in done.stderr
    assert str(picture) in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["failed"] == 2


@pytest.mark.parametrize("form", [["--json"], pytest.param([], marks=pytest.mark.slow)])
def test_a_name_that_the_terminal_cannot_show_ends_no_run(
    place: str, tmp_path: Path, form: list[str]
) -> None:
    (path,) = write_pictures(tmp_path, 1)
    named = tmp_path / "絵.png"
    Path(path).rename(named)
    done = run_predict("--model", place, *form, str(named), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["failed"] == 0
    if form:
        answer = json.loads(done.stdout.splitlines()[0])
        assert answer["image"] == str(named)
        assert answer["bookmark_predict"]["3"] == "1000-∞"
    else:
        assert "\\u7d75.png" in done.stdout


def test_no_image_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="no image given"):
        resolve(PredictConfig, ["--model", "x"])


@pytest.mark.parametrize("device", ["auto", "cpu", "gpu", "cuda"])
def test_the_device_is_named_as_in_every_job_and_as_torch_names_it(device: str) -> None:
    assert resolve(PredictConfig, ["--model", "x", "--device", device, "a.png"]).device == device


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_without_a_gpu_auto_is_the_cpu_and_gpu_a_mistake(place: str) -> None:
    assert Model.load(place, device="auto").card.heads == HEADS
    with pytest.raises(ConfigError, match="has no GPU that torch can use; use --device cpu"):
        Model.load(place, device="gpu")


def test_a_place_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a model"):
        predict(PredictConfig(model=str(tmp_path), images=("a.png",)), say=print)


def test_the_text_tells_bin_probability_expected_and_score() -> None:
    said = {"bin": 1, "label": "10-30", "probs": [0.25, 0.75], "score": 0.5, "expected": 22.4}
    text = answer_text(
        "a.png",
        Answer({"bookmark": said}, np.zeros(2, np.float32)),
        card_of(settled_model(), HEADS[:1]),
    )
    assert text.split() == ["a.png", "bookmark", "10-30", "(", "75%)", "expected", "22.4", "score", "0.500"]


def test_importing_the_package_loads_no_torch_and_the_job_no_ray() -> None:
    code = (
        "import sys, pix2score; assert 'torch' not in sys.modules; pix2score.Model; assert 'ray' not in "
        "sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


needs_8_bits = pytest.mark.skipif(
    not instructions.has_any(instructions.EIGHT_BIT), reason="this CPU has neither VNNI nor AMX"
)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_engine_files(tmp_path_factory.mktemp("engines") / "model")


@needs_8_bits
def test_an_engine_of_8_bits_answers_nearly_as_float32_and_is_told(narrow: Path, tmp_path: Path) -> None:
    images, lines = tuple(write_pictures(tmp_path)), list[dict[str, Any]]()
    for engine in ("auto", "int8"):
        config = PredictConfig(model=str(narrow), images=images, json=True, engine=engine)
        told = predict(config, lambda line: lines.append(json.loads(line)["bookmark"]))
        assert ("engine" in told) == (engine == "int8")
    assert (told["engine"]["name"], told["failed"]) == ("int8", 0)
    exact, near = np.array([line["probs"] for line in lines]).reshape(2, len(images), -1)
    assert not np.array_equal(exact, near)
    np.testing.assert_allclose(near, exact, atol=0.1)


def test_an_engine_that_answers_otherwise_leaves_the_answer_in_float32(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = with_engine_files(tmp_path / "model")
    permute_scales(broken)
    pictures = pixels(2, seed=8)
    for engine in ("auto", "int8"):
        model = Model.load(str(broken), engine=engine)
        found = [answer_of(model, Image.fromarray(picture)) for picture in pictures]
        model.close()
        if engine == "auto":
            exact = found
    assert all(same(a, b) for a, b in zip(found, exact, strict=True))
    assert model.engine_facts == {"engine": {"name": "float32", "asked": "int8"}}
    assert "engine int8 is not used, the network runs in float32" in caplog.text


def test_an_engine_without_its_files_and_one_that_a_gpu_lacks_are_one_line(place: str) -> None:
    with pytest.raises(DataError, match="python -m jobs.export --model .* --engine int8 --calibrate DATASET"):
        Model.load(place, engine="int8")
    with pytest.raises(ConfigError, match="engine int8 runs on the CPU only"):
        PredictConfig(model=place, images=("a.png",), device="gpu", engine="int8")
