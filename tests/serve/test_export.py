"""In another runtime, on pixels of any size, an exported model answers as the batch predictor."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from pix2score.errors import ConfigError, DataError
from pix2score.images.decode import picture_to_rgb
from pix2score.images.preprocess import RESIZES, Preprocess
from pix2score.model.folder import load_model
from pix2score.model.predictor import Predictor
from pix2score.serve import export as module
from pix2score.serve.config import ExportConfig
from pix2score.serve.export import export, facts
from pix2score.serve.graph import ServedModel, resize
from tests.conftest import BUCKET
from tests.support.models import save_settled
from tests.support.torch_helpers import HEADS, PREPROCESS, pixels

RGB = npt.NDArray[np.uint8]
SIZES = [(32, 32), (96, 64), (64, 96), (7, 5), (1, 1), (300, 500), (500, 90)]


def picture(height: int, width: int, seed: int = 0) -> RGB:
    """Random blocks of any shape."""
    side = 4 * -(-max(height, width) // 4)
    return np.ascontiguousarray(pixels(1, seed, side)[0][:height, :width])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_settled(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def onnx_file(place: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("exported") / "model.onnx")
    export(ExportConfig(model=place, out=out))
    return out


def assert_answers_agree(
    outputs: dict[str, Any], predictor: Predictor, image: RGB, atol: float = 1e-3
) -> None:
    wanted = predictor.predict(picture_to_rgb(Image.fromarray(image), predictor.card.preprocess)[None])
    np.testing.assert_allclose(outputs["embedding"], wanted.embedding[0], atol=50 * atol)
    for head in predictor.card.heads:
        answer, name = wanted.heads[head.name], head.name
        np.testing.assert_allclose(outputs[f"{name}_probs"], answer.probs[0], atol=atol)
        np.testing.assert_allclose(outputs[f"{name}_score"], answer.score[0], atol=atol)
        np.testing.assert_allclose(outputs[f"{name}_expected"], answer.expected[0], rtol=10 * atol)
        top = np.sort(answer.probs[0])[-2:]
        assert top[1] - top[0] < 2 * atol or outputs[f"{name}_bin"] == answer.bin[0]


@pytest.mark.parametrize("size", SIZES)
def test_onnxruntime_agrees_with_the_batch_predictor(
    onnx_file: str, place: str, size: tuple[int, int]
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_file)
    image = picture(*size)
    outputs = dict(
        zip([o.name for o in session.get_outputs()], session.run(None, {"image": image}), strict=True)
    )
    assert_answers_agree(outputs, Predictor(*load_model(place), batch_size=4), image)


def test_the_file_tells_its_input_outputs_version_and_bins(onnx_file: str, place: str) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_file)
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["height", "width", 3])
    names = [f"{head.name}_{name}" for head in HEADS for name in ("probs", "bin", "score", "expected")]
    assert [o.name for o in session.get_outputs()] == [*names, "embedding"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["pix2score"]) == facts(load_model(place)[0])


@pytest.mark.slow
def test_torch_export_agrees_with_the_batch_predictor(place: str, tmp_path: Path) -> None:
    summary = export(ExportConfig(model=place, out=str(tmp_path / "model.pt2")))
    assert summary["bytes"] == (tmp_path / "model.pt2").stat().st_size
    extra = {"pix2score.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    assert json.loads(extra["pix2score.json"])["model_version"] == summary["model_version"]
    for size in SIZES[:4]:
        outputs = {
            name: tensor.detach().numpy()
            for name, tensor in program(torch.from_numpy(picture(*size))).items()
        }
        assert_answers_agree(outputs, Predictor(*load_model(place), batch_size=1), picture(*size))


@pytest.mark.parametrize("mode", RESIZES)
@pytest.mark.parametrize("size", [*SIZES, (1000, 777), (333, 1000), (31, 33)])
def test_resizing_in_the_graph_gives_the_same_pixels(mode: str, size: tuple[int, int]) -> None:
    preprocess = Preprocess(size=32, resize=mode)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    wanted = picture_to_rgb(Image.fromarray(image), preprocess).astype(int)
    found = resize(torch.from_numpy(image), preprocess).permute(1, 2, 0).numpy()
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("mode", RESIZES)
def test_the_model_resizes_as_its_card_says(place: str, mode: str) -> None:
    card, weights = load_model(place)
    card = replace(card, preprocess=replace(PREPROCESS, resize=mode))
    image = picture(120, 40)
    with torch.inference_mode():
        outputs = {
            name: tensor.numpy()
            for name, tensor in ServedModel(card, weights).eval()(torch.from_numpy(image)).items()
        }
    assert_answers_agree(outputs, Predictor(card, weights, batch_size=1), image)


@pytest.mark.slow
def test_export_to_s3(place: str, s3: Any) -> None:
    summary = export(ExportConfig(model=place, out=f"s3://{BUCKET}/exported/model.pt2"))
    assert s3.head_object(Bucket=BUCKET, Key="exported/model.pt2")["ContentLength"] == summary["bytes"]


def test_another_suffix_and_a_place_without_a_model_are_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.pb: expected a name that ends in .onnx or .pt2"):
        ExportConfig(model="m", out="model.pb")
    with pytest.raises(DataError, match="is not a model"):
        export(ExportConfig(model=str(tmp_path), out=str(tmp_path / "model.onnx")))


@pytest.mark.slow
def test_without_the_onnx_packages_one_line_says_what_to_install(tmp_path: Path) -> None:
    place = save_settled(tmp_path / "model", backbone="resnet18")
    (tmp_path / "empty").mkdir()
    code = (
        "import sys; sys.modules['onnxscript'] = None; sys.path_importer_cache.clear()\n"
        "import importlib.util as u; find = u.find_spec; u.find_spec = lambda n, p=None: None if n == "
        "'onnxscript' else find(n, p)\n"
        f"sys.argv = ['export', '--model', {place!r}, '--out', {str(tmp_path / 'm.onnx')!r}]\n"
        "import runpy; runpy.run_module('jobs.export', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "jobs.export: ONNX needs onnxscript, not installed here: pip install 'pix2score[export]'"
    )
    assert find_spec("onnx") is not None
    assert module.FACTS == "pix2score"
