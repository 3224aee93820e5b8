"""The ascend job: numbers that predict confirms, pictures as described, mistakes in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pix2score.ascend.config import AscendConfig
from pix2score.ascend.job import ascend
from pix2score.errors import ConfigError, DataError
from pix2score.serve.model import Answer, Model
from tests.conftest import BUCKET
from tests.support.models import save_settled
from tests.support.torch_helpers import pixels


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_settled(tmp_path_factory.mktemp("saved"))


def picture(folder: Path, name: str = "one.png", seed: int = 0) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(1, seed, size=48)[0]).save(folder / name)
    return str(folder / name)


def config(place: str, out: Path | str, *images: str, **settings: Any) -> AscendConfig:
    return AscendConfig(
        **{"model": place, "head": "bookmark", "image": images, "out": str(out), "steps": 8, **settings}
    )


def shown(path: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path)).astype(int)


def test_predict_says_of_what_is_written_what_the_job_says(place: str, tmp_path: Path) -> None:
    image = picture(tmp_path)
    summary = ascend(config(place, tmp_path / "out", image, bound="4/255"))
    (found,) = summary["images"]
    model = Model.load(place)
    answers = model.predict([image, found["files"]["before"], found["files"]["after"]])
    model.close()
    scores = [answer.heads["bookmark"]["score"] for answer in answers if isinstance(answer, Answer)]
    assert scores == pytest.approx([found["score"][s] for s in ("before", "before", "rounded")], abs=1e-4)
    assert found["score"] == found["aimed"]  # of an ordered head up is the score
    assert scores[2] > scores[0] + 0.01
    assert set(found["score"]) == {"before", "after", "rounded", "jpeg_75", "resize_75"}
    before, after, difference = (shown(found["files"][name]) for name in ("before", "after", "difference"))
    assert np.abs(after - before).max() == found["linf_255"] == 4
    assert np.array_equal(difference, (128 + 16 * (after - before)).clip(0, 255))
    assert found["psnr_db"] == pytest.approx(10 * np.log10(255**2 / ((after - before) ** 2).mean()), abs=0.01)
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert written["images"] == summary["images"]


def test_without_a_bound_more_is_reached(place: str, tmp_path: Path) -> None:
    image = picture(tmp_path)
    found = {
        bound: ascend(config(place, tmp_path / bound[0], image, bound=bound))["images"][0]
        for bound in ("2/255", "none")
    }
    assert found["none"]["score"]["rounded"] > found["2/255"]["score"]["rounded"]
    assert found["none"]["linf_255"] > 8


def test_images_of_one_name_are_written_beside_each_other(place: str, tmp_path: Path) -> None:
    images = [picture(tmp_path / folder, seed=seed) for seed, folder in enumerate(("a", "b"))]
    summary = ascend(config(place, tmp_path / "out", *images, steps=1))
    names = sorted(path.name for path in (tmp_path / "out").glob("*_after.png"))
    assert names == ["one_2_after.png", "one_after.png"]
    assert [Path(found["files"]["after"]).name for found in summary["images"]] == names[::-1]


def test_an_image_and_the_output_may_be_on_s3(place: str, s3: Any, tmp_path: Path) -> None:
    s3.upload_file(picture(tmp_path), BUCKET, "ascend/one.png")
    out = f"s3://{BUCKET}/ascended"
    (found,) = ascend(config(place, out, f"s3://{BUCKET}/ascend/one.png", steps=1))["images"]
    assert found["files"]["after"] == f"{out}/one_after.png"
    assert s3.get_object(Bucket=BUCKET, Key="ascended/one_after.png")["Body"].read().startswith(b"\x89PNG")


def test_a_bad_image_is_named_with_its_code_after_the_others_are_done(place: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99))
    with pytest.raises(DataError, match=r"1 of 2 images gave no pixels: .*bad\.png: CORRUPT: "):
        ascend(config(place, tmp_path / "out", str(bad), picture(tmp_path), steps=1))
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (written["exit_code"], len(written["images"])) == (2, 1)
    assert (tmp_path / "out" / "one_after.png").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "bookmarks"}, "--head bookmarks: the model has no such head; did you mean bookmark?"),
        ({"head": "x"}, "--head x: the model has no such head; one of bookmark, sanity"),
        ({"head": "sanity", "towards": "9"}, "--towards 9: head 'sanity' has no such level; one of 0, 1, 2"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    place: str, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        ascend(config(place, tmp_path / "out", "none.png", **settings))
    assert str(caught.value) == message
    assert not (tmp_path / "out").exists()


def test_the_job_exits_2_with_one_line(place: str, tmp_path: Path) -> None:
    words = ["--model", place, "--image", picture(tmp_path), "--head", "bookmark", "--bound", "9"]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.ascend", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "jobs.ascend: --bound 9: is a share of a pixel's range, at most 1; 9/255?\n"
    assert json.loads(done.stdout)["job"] == "ascend"
