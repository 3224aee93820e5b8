"""Engines of fewer bits: how near they are, and that a host on which they are not does not use them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from pix2score.cli import packages
from pix2score.errors import ConfigError, DataError
from pix2score.host import instructions
from pix2score.model import admission as of_admission
from pix2score.model.admission import Admission, Narrow, admitted, load_admitted
from pix2score.model.answers import EmbeddingPredictor
from pix2score.model.card import ModelCard
from pix2score.model.engine_files import CARD, INT8, load_engine_card
from pix2score.model.folder import Weights, load_graph, load_model
from pix2score.model.parity import MOST_CHANGE
from pix2score.model.predictor import Predictor, Runtime
from pix2score.snapshots.identity import is_version, model_of, with_engine
from tests.support.engines import NUM, permute_scales, seeing_model, with_engine_files
from tests.support.torch_helpers import HEADS, pixels

HAS_OPENVINO = find_spec("openvino") is not None
ENGINES: list[Any] = [
    pytest.param("int8", "onnxruntime"),
    *(
        pytest.param(engine, "openvino", marks=pytest.mark.skipif(not HAS_OPENVINO, reason="no openvino"))
        for engine in ("int8", "bf16")
    ),
]
RUNTIME: Runtime = "openvino" if HAS_OPENVINO else "onnxruntime"
ABLE = "model name\t: A\nflags\t\t: fpu avx512_vnni avx512_bf16\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its files for engines."""
    return with_engine_files(tmp_path_factory.mktemp("engines") / "model")


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be broken."""
    place = tmp_path / "model"
    place.mkdir()
    for file in made.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    return place


@pytest.fixture(autouse=True)
def cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """What the operating system says of the CPU: that it has the instructions."""
    told = tmp_path / "cpuinfo"
    told.write_text(ABLE)
    monkeypatch.setattr(instructions, "_CPUINFO", told)
    instructions.cpu_flags.cache_clear()
    yield told
    instructions.cpu_flags.cache_clear()


def told_flags(cpu: Path, flags: str) -> None:
    cpu.write_text(f"model name\t: B\nflags\t\t: {flags}\n")
    instructions.cpu_flags.cache_clear()


def narrow(place: Path, engine: Narrow, runtime: Runtime, **settings: Any) -> Predictor:
    card, weights = load_model(str(place))
    graph = (place / INT8).read_bytes() if engine == "int8" else load_graph(str(place), card)
    return Predictor(
        card, weights, **{"batch_size": 8, **settings}, engine=engine, runtime=runtime, graph=graph
    )


def admit(place: Path, engine: Narrow = "int8") -> Admission | None:
    card, weights = load_model(str(place))
    return admitted(str(place), card, weights, engine)


@pytest.mark.parametrize(("engine", "runtime"), ENGINES)
def test_answers_are_near_those_of_float32_and_not_them(made: Path, engine: Narrow, runtime: Runtime) -> None:
    images = pixels(24, seed=7)
    exact = Predictor(*load_model(str(made)), batch_size=8).predict(images)
    found = narrow(made, engine, runtime).predict(images)
    assert found.finite.all()
    for head in HEADS:
        apart = np.abs(found.heads[head.name].probs - exact.heads[head.name].probs)
        assert 0 < apart.mean() <= MOST_CHANGE
        assert apart.max() < 0.1


@pytest.mark.parametrize(("engine", "runtime"), ENGINES)
def test_m1_the_stored_embedding_gives_the_answer_of_the_picture(
    made: Path, engine: Narrow, runtime: Runtime
) -> None:
    card, weights = load_model(str(made))
    of_pictures = narrow(made, engine, runtime).predict(pixels(19, seed=1))
    stored = of_pictures.embedding.astype(np.float16)
    assert np.array_equal(stored.astype(np.float32), of_pictures.embedding), "nothing is lost in storage"
    again = EmbeddingPredictor(card, weights).predict(stored)
    for head in HEADS:
        np.testing.assert_allclose(
            again.heads[head.name].probs, of_pictures.heads[head.name].probs, atol=1e-5
        )


@pytest.mark.parametrize(("engine", "runtime"), ENGINES)
def test_s6_a_row_does_not_depend_on_its_batch_nor_on_other_threads(
    made: Path, engine: Narrow, runtime: Runtime
) -> None:
    predictor, images = narrow(made, engine, runtime, num_threads=1), pixels(19, seed=1)
    whole = predictor.predict(images).embedding
    np.testing.assert_array_equal(predictor.predict(images[17:18]).embedding[0], whole[17])
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(predictor.predict, [images] * 12):
            np.testing.assert_array_equal(found.embedding, whole)


def test_the_trunk_alone_is_in_8_bits_and_the_kernel_of_pixels_is_not(made: Path) -> None:
    proto = onnx.load(made / INT8)
    kernels = [t for t in proto.graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) == 4]
    assert len(kernels) == 12, "four blocks of two, each with one that widens"
    assert not any(tensor.dims[1] == 3 for tensor in kernels)
    assert not any("outputs." in tensor.name for tensor in proto.graph.initializer)
    assert max(np.abs(numpy_helper.to_array(t)).max() for t in kernels) > 64, "8 bits, not 7"


@pytest.mark.parametrize(
    "engine", ["int8", pytest.param("bf16", marks=pytest.mark.skipif(not HAS_OPENVINO, reason="no openvino"))]
)
def test_a_host_that_answers_alike_is_admitted_under_a_name_of_its_own(made: Path, engine: Narrow) -> None:
    found = admit(made, engine)
    assert found is not None
    sha = hashlib.sha256((made / INT8).read_bytes()).hexdigest()[:8]
    assert found.identity == (f"int8-{RUNTIME}-{sha}" if engine == "int8" else "bf16-openvino")
    assert {head: change["pictures"] for head, change in found.changes.items()} == {
        head.name: NUM for head in HEADS
    }
    card, _ = load_model(str(made))
    version = with_engine(card.version, found.identity)
    assert version != card.version
    assert model_of(version) == card.version
    assert is_version(version)


def test_permuted_scales_are_not_admitted(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    permute_scales(model)
    with caplog.at_level(logging.WARNING):
        assert admit(model) is None
    assert "engine int8 is not used, the network runs in float32: on this host its answers" in caplog.text
    assert "probabilities move by" in caplog.text


def test_a_main_number_that_falls_is_not_admitted(
    model: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probabilities may hardly move where ranks do: all answers of this head are near each other."""
    monkeypatch.setattr("pix2score.model.parity.MOST_CHANGE", 1.0)
    permute_scales(model)
    with caplog.at_level(logging.WARNING):
        assert admit(model) is None
    assert "falls from" in caplog.text


def test_a_cpu_without_the_instructions_runs_in_float32(
    made: Path, cpu: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told_flags(cpu, "fpu avx2 avx512f")
    with caplog.at_level(logging.WARNING):
        assert admit(made) is None
    assert "has none of amx_int8, avx512_vnni, avx_vnni" in caplog.text


def test_a_worker_on_another_kind_of_host_looks_for_itself(model: Path, cpu: Path) -> None:
    found = admit(model)
    assert found is not None
    settings = {"batch_size": 8, "num_threads": 1, "device": "cpu"}
    told_flags(cpu, "fpu avx512_vnni amx_int8")
    assert load_admitted(str(model), found, **settings).predict(pixels(2)).finite.all()
    told_flags(cpu, "fpu avx2")
    with pytest.raises(DataError, match="cannot run engine int8: its CPU has none of"):
        load_admitted(str(model), found, **settings)


def test_a_worker_whose_answers_differ_is_refused(
    model: Path, cpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = admit(model)
    assert found is not None
    permute_scales(model)
    card, _ = load_model(str(model))
    other = of_admission._identity("int8", found.runtime, load_engine_card(str(model), card, "int8"))
    with pytest.raises(DataError, match="was made anew while it was in use"):
        load_admitted(str(model), found, batch_size=8, num_threads=1)
    told_flags(cpu, "fpu avx512_vnni amx_int8")
    with pytest.raises(DataError, match="cannot run engine int8: its answers are not float32's"):
        load_admitted(str(model), replace(found, identity=other), batch_size=8, num_threads=1)


def test_what_is_missing_is_told_with_the_command_that_makes_it(made: Path, model: Path) -> None:
    (model / INT8).unlink()
    with pytest.raises(DataError, match=f"{INT8} is gone: python -m jobs.export --model .* makes it"):
        admit(model)
    (model / INT8).write_bytes(b"other")
    with pytest.raises(DataError, match=f"{INT8} is not the one that {CARD} lists"):
        admit(model)
    content = json.loads((made / CARD).read_text())
    (model / CARD).write_text(json.dumps(content | {"int8_sha256": None}))
    with pytest.raises(DataError, match=f"has no {INT8}: python -m jobs.export .* --engine int8"):
        admit(model)
    (model / CARD).write_text(json.dumps(content | {"model_version": "0" * 12}))
    with pytest.raises(DataError, match="is of model 0{12}, the model is "):
        admit(model)
    (model / CARD).unlink()
    with pytest.raises(DataError, match=f"engine int8: .* has no {CARD}"):
        admit(model)


def test_bf16_without_its_runtime_is_refused_and_int8_runs_in_the_other(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = packages.find_spec
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "openvino" else there(name))
    with pytest.raises(ConfigError, match=r"engine bf16 needs openvino.*pip install 'pix2score\[openvino\]'"):
        admit(made, "bf16")
    found = admit(made)
    assert found is not None
    assert found.runtime == "onnxruntime"


def test_a_model_with_such_files_is_the_same_model(made: Path, tmp_path: Path) -> None:
    plain: tuple[ModelCard, Weights] = load_model(seeing_model(tmp_path / "plain"))
    assert load_model(str(made))[0] == plain[0]
