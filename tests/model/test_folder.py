"""The model directory: what is saved is what is loaded, and anything that does not match is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pix2score.errors import ConfigError, DataError, TrainingError
from pix2score.heads.ordered import OrderedHead
from pix2score.images.preprocess import Preprocess
from pix2score.model.card import CARD, ModelCard, load_card
from pix2score.model.folder import GRAPH, WEIGHTS, load_graph, load_model, save_model
from pix2score.storage.folder import Folder

HEAD = OrderedHead(
    name="bookmark", column="bookmarks", edges=(10, 30), counts=(5, 6, 7), typical=(1.0, 20.0, 2.5e9)
)
OPEN_HEAD = OrderedHead(name="sentiment", column="s", edges=(-0.5, 0.5), min_value=float("-inf"))
TENSORS: dict[str, Any] = {
    "stem.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "stem.half": np.ones(3, np.float16),
    "bn.num_batches_tracked": np.array(2**40, np.int64),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
}
MODEL: dict[str, Any] = {
    "backbone": "resnet18",
    "heads": (HEAD, OPEN_HEAD),
    "preprocess": Preprocess(size=96),
    "embedding_dim": 512,
    "temperatures": {"bookmark": 1.25, "sentiment": 1.0},
    "about": {"epochs": 3, "note": "絵"},
}


def save(place: str, weights: dict[str, Any] | None = None, **changes: Any) -> ModelCard:
    return save_model(place, weights or TENSORS, **{**MODEL, **changes})


def change_card(place: str, change: Callable[[dict[str, Any]], None]) -> None:
    folder = Folder(place)
    content = json.loads(folder.read(CARD))
    change(content)
    folder.publish(CARD, json.dumps(content).encode(), replace=True)


def test_a_saved_model_is_loaded_as_it_was(place: str) -> None:
    saved = save(place)
    card, weights = load_model(place)
    assert card == saved == load_card(place)
    assert (card.backbone, card.heads, card.preprocess, card.about) == (
        "resnet18",
        (HEAD, OPEN_HEAD),
        Preprocess(size=96),
        MODEL["about"],
    )
    assert set(weights) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert weights[name].dtype == tensor.dtype
        assert np.array_equal(weights[name], tensor)


def test_the_version_is_the_same_for_the_same_model_wherever_it_lies(tmp_path: Any) -> None:
    first = save(str(tmp_path / "a"))
    again = save(str(tmp_path / "b"), dict(reversed(TENSORS.items())))
    assert first.version == again.version
    assert len(first.version) == 12


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "resnet50"},
        {"heads": (HEAD,)},
        {"heads": (OPEN_HEAD, HEAD)},
        {"preprocess": Preprocess(size=96, resize="pad")},
        {"embedding_dim": 513},
        {"hidden": 64},
        {"temperatures": {"bookmark": 1.5, "sentiment": 1.0}},
        {"weights": {**TENSORS, "stem.half": np.zeros(3, np.float16)}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_version_changes_with_all_that_decides_a_prediction(
    tmp_path: Any, changes: dict[str, Any]
) -> None:
    assert save(str(tmp_path / "a")).version != save(str(tmp_path / "b"), **changes).version


def test_the_version_does_not_change_with_what_is_merely_said_about_the_model(tmp_path: Any) -> None:
    assert save(str(tmp_path / "a")).version == save(str(tmp_path / "b"), about={"accuracy": 0.5}).version


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_model_with_a_weight_that_is_not_finite_is_never_saved(place: str, bad: float) -> None:
    weights = {**TENSORS, "bn.running_var": np.array([1, bad], np.float32)}
    with pytest.raises(TrainingError, match=r"bn\.running_var"):
        save(place, weights)
    assert Folder(place).entries() == []


def test_a_model_replaces_the_one_before(place: str) -> None:
    save(place)
    second = save(place, backbone="resnet50")
    assert load_model(place)[0] == second


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(backbone="resnet50"),
        lambda content: content["temperatures"].update(bookmark=9.0),
        lambda content: content["heads"][0].update(edges=[10, 31]),
        lambda content: content["preprocess"].update(resize="crop"),
        lambda content: content.update(model_version="0" * 12),
    ],
    ids=["backbone", "temperature", "edges", "preprocess", "version"],
)
def test_an_altered_card_is_refused(place: str, change: Callable[[dict[str, Any]], None]) -> None:
    save(place)
    change_card(place, change)
    with pytest.raises(DataError, match=r"model\.json was altered"):
        load_card(place)


def test_what_is_said_about_a_model_may_be_edited(tmp_path: Any) -> None:
    save(str(tmp_path))
    change_card(str(tmp_path), lambda content: content.update(about={"name": "ours"}))
    assert load_card(str(tmp_path)).about == {"name": "ours"}


def test_altered_weights_are_refused(place: str) -> None:
    save(place)
    data = bytearray(Folder(place).read(WEIGHTS))
    data[-1] ^= 1
    Folder(place).publish(WEIGHTS, bytes(data), replace=True)
    with pytest.raises(DataError, match=r"model\.safetensors was altered"):
        load_model(place)


def test_the_graph_is_part_of_the_folder_and_not_of_the_version(place: str) -> None:
    plain = save(place)
    assert load_graph(place, plain) is None
    card = save(place, graph=lambda card, spans: f"{card.backbone} {sorted(spans)[0]}".encode())
    assert card == load_card(place)
    assert card.version == plain.version
    assert load_graph(place, card) == b"resnet18 bn.num_batches_tracked"


def test_spans_say_where_weights_lie_in_the_file(place: str) -> None:
    found: dict[str, Any] = {}
    save(place, graph=lambda card, spans: found.update(spans))
    data = Folder(place).read(WEIGHTS)
    assert found.keys() == TENSORS.keys()
    for name, (offset, length) in found.items():
        assert data[offset : offset + length] == np.ascontiguousarray(TENSORS[name]).tobytes(), name


def test_an_altered_graph_is_refused_and_a_lost_one_is_none(place: str) -> None:
    card = save(place, graph=lambda *_: b"graph")
    Folder(place).publish(GRAPH, b"Graph", replace=True)
    with pytest.raises(DataError, match=r"model\.onnx was altered"):
        load_graph(place, card)
    Folder(place).delete([GRAPH])
    assert load_graph(place, card) is None


def test_missing_weights_are_named(place: str) -> None:
    save(place)
    Folder(place).delete([WEIGHTS])
    with pytest.raises(DataError, match=r"no model\.safetensors"):
        load_model(place)


def test_a_place_without_a_model_is_named(place: str) -> None:
    with pytest.raises(DataError, match=f"{place} is not a model"):
        load_card(place)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"{}", b'{"format": 1}', b"\xff\xfe", b'{"format": 1, "heads": 5}']
)
def test_a_card_that_is_none_is_a_data_error(tmp_path: Any, content: bytes) -> None:
    Folder(str(tmp_path)).publish(CARD, content)
    with pytest.raises(DataError, match=r"model\.json"):
        load_card(str(tmp_path))


def test_a_model_of_another_format_is_refused(tmp_path: Any) -> None:
    save(str(tmp_path))
    change_card(str(tmp_path), lambda content: content.update(format=99))
    with pytest.raises(DataError, match="format 99"):
        load_card(str(tmp_path))


def test_a_model_made_for_other_pixels_is_refused(tmp_path: Any) -> None:
    save(str(tmp_path))
    change_card(str(tmp_path), lambda content: content["preprocess"].update(algorithm=99))
    with pytest.raises(ConfigError, match="algorithm 99"):
        load_card(str(tmp_path))
