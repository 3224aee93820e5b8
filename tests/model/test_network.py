"""The network, its input, and the weights that a trunk may start from."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from pix2score.errors import ConfigError, DataError
from pix2score.heads.ordered import OrderedHead
from pix2score.images.preprocess import Preprocess
from pix2score.model.backbones import CLASSIC as BACKBONES
from pix2score.model.backbones import check_backbone
from pix2score.model.folder import load_model
from pix2score.model.initial import initial_trunk
from pix2score.model.network import MultiHeadModel, load_exactly, normalise, weights_of
from pix2score.model.networks import model_from_card
from pix2score.model.trunk import build_trunk, check_size
from tests.support.torch_helpers import (
    HEADS,
    NARROW,
    NARROW_DIM,
    PREPROCESS,
    pixels,
    save_network,
    settled_model,
    state_of,
)


@pytest.mark.parametrize(
    "refuse",
    [check_backbone, lambda name: MultiHeadModel(name, HEADS), lambda name: initial_trunk("none", name)],
)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet19", "nearest: .*resnet18"),
        ("tf_efficientnet_light0", "nearest: .*tf_efficientnet_lite0"),
        ("dinov2_small", "nearest: "),
        ("resnet50.imagenet", "has no weights of that name; known: resnet50.a1_in1k"),
        ("", "expected a name of timm's"),
        ("resnet18; rm", "expected a name of timm's"),
        ("hf-hub:someone/anything", "expected a name of timm's"),
        ("local-dir:/tmp", "expected a name of timm's"),
    ],
)
def test_a_backbone_that_is_not_known_is_refused_with_the_nearest_names(
    refuse: Callable[[str], object], name: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        refuse(name)
    assert repr(name) in str(refused.value)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_a_seed_gives_the_weights_and_the_next_random_number_of_torchvision(backbone: str) -> None:
    torch.manual_seed(3)
    expected = torchvision.models.get_model(backbone, weights=None).state_dict()
    following = torch.rand(1)
    torch.manual_seed(3)
    found = build_trunk(backbone).state_dict()
    assert torch.equal(torch.rand(1), following)
    assert found.keys() == expected.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_is_built_with_the_embedding_that_its_heads_see(backbone: str) -> None:
    with torch.device("meta"):  # shapes without memory
        model = MultiHeadModel(backbone, HEADS)
        logits, embedding = model.eval()(torch.zeros(2, 3, 64, 64))
    assert embedding.shape == (2, model.embedding_dim)
    assert {name: tuple(x.shape) for name, x in logits.items()} == {h.name: (2, h.num_bins) for h in HEADS}


@pytest.mark.endurance
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_computes(backbone: str) -> None:
    with torch.inference_mode():
        logits, embedding = MultiHeadModel(backbone, HEADS).eval()(torch.zeros(1, 3, 32, 32))
    assert embedding.shape[0] == 1
    assert torch.isfinite(embedding).all()
    assert all(torch.isfinite(x).all() for x in logits.values())


@pytest.mark.parametrize(
    ("backbone", "dim"), [("resnet18", 512), ("resnet34", 512), ("resnet50", 2048), ("resnet101", 2048)]
)
def test_embedding_dimension_is_the_width_of_the_last_stage(backbone: str, dim: int) -> None:
    with torch.device("meta"):
        assert MultiHeadModel(backbone, HEADS).embedding_dim == dim


def test_the_embedding_is_the_pooled_feature_of_torchvision_and_the_heads_are_linear_in_it() -> None:
    model = settled_model(backbone="resnet18")
    plain = torchvision.models.resnet18(weights=None)
    plain.load_state_dict(model.trunk.state_dict(), strict=False)
    plain.fc = torch.nn.Identity()
    image = normalise(torch.from_numpy(pixels(3)), PREPROCESS)
    with torch.inference_mode():
        logits, embedding = model(image)
        feature = plain.eval()(image)
        torch.testing.assert_close(embedding, feature, rtol=1e-3, atol=1e-4)  # half a step of float16
        torch.testing.assert_close(embedding.half().float(), embedding, rtol=0, atol=0)
        for head in HEADS:
            output = model.outputs[f"{head.name}_logits"]
            weight, bias = output.weight, output.bias
            torch.testing.assert_close(logits[head.name], embedding @ weight.T + bias)


def test_normalise_equals_torchvision_on_the_same_pixels() -> None:
    preprocess = Preprocess(size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    images = pixels(4)
    found = normalise(torch.from_numpy(images), preprocess)
    to_tensor = torchvision.transforms.ToTensor()
    for i in range(4):
        expected = torchvision.transforms.functional.normalize(
            to_tensor(Image.fromarray(images[i])), list(preprocess.mean), list(preprocess.std)
        )
        torch.testing.assert_close(found[i], expected, rtol=1e-6, atol=1e-6)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_normalise_leaves_the_pixels_as_they_were() -> None:
    images = torch.from_numpy(pixels(2))
    before = images.clone()
    normalise(images, PREPROCESS)
    assert torch.equal(images, before)


def test_weights_survive_a_model_directory_to_the_bit(tmp_path: Path) -> None:
    model = settled_model()
    saved(model, tmp_path / "model")
    card, weights = load_model(str(tmp_path / "model"))
    loaded = model_from_card(card, weights)
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
        assert tensor.dtype == loaded.state_dict()[name].dtype, name


def test_weights_that_do_not_fit_are_listed() -> None:
    layer = torch.nn.Linear(2, 3)
    with pytest.raises(
        DataError, match=r"lacks bias.*has unknown surplus.*weight is \(3, 5\), expected \(3, 2\)"
    ):
        load_exactly(layer, {"weight": torch.zeros(3, 5), "surplus": torch.zeros(1)}, "a test")


def test_a_long_list_of_misfits_is_cut_with_their_number() -> None:
    # resnet18 has 122 entries, 2 of them in fc; 3 are named.
    with pytest.raises(DataError, match="and 119 more"):
        load_exactly(torchvision.models.resnet18(weights=None), {}, "a test")


# What a trunk may start from


def saved(model: MultiHeadModel, place: Path, backbone: str = NARROW, **facts: Any) -> None:
    save_network(str(place), model, backbone=backbone, **facts)


@pytest.fixture(scope="module")
def pretrained() -> torchvision.models.ResNet:
    torch.manual_seed(7)
    return torchvision.models.resnet18(weights=None)


def assert_is_trunk_of(found: dict[str, Tensor] | None, whole: dict[str, Tensor]) -> None:
    assert found is not None
    expected = {name: t for name, t in whole.items() if not name.startswith("fc.")}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with torch.device("meta"):  # shapes without memory
        MultiHeadModel("resnet18", HEADS).trunk.load_state_dict(found, assign=True)


def test_none_starts_from_nothing() -> None:
    assert initial_trunk("none", "resnet18") is None


@pytest.mark.parametrize("suffix", ["pth", "pt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_torchvision_file_gives_the_trunk_without_fc(
    tmp_path: Path, pretrained: torchvision.models.ResNet, suffix: str, zipped: bool
) -> None:
    place = tmp_path / f"resnet18.{suffix}"
    torch.save(pretrained.state_dict(), place, _use_new_zipfile_serialization=zipped)
    assert_is_trunk_of(initial_trunk(str(place), "resnet18"), state_of(pretrained))


def test_a_file_older_than_num_batches_tracked_is_accepted_as_by_torch(
    tmp_path: Path, pretrained: torchvision.models.ResNet
) -> None:
    """Torchvision's first weights have no counters; ``load_state_dict`` fills in zeros."""
    old = {name: t for name, t in pretrained.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    assert_is_trunk_of(initial_trunk(str(tmp_path / "old.pth"), "resnet18"), state_of(pretrained))


def test_a_safetensors_file_gives_the_trunk_without_fc(
    tmp_path: Path, pretrained: torchvision.models.ResNet
) -> None:
    save_file(pretrained.state_dict(), tmp_path / "resnet18.safetensors")
    assert_is_trunk_of(
        initial_trunk(str(tmp_path / "resnet18.safetensors"), "resnet18"), state_of(pretrained)
    )


def test_a_model_directory_gives_its_trunk_without_its_heads(tmp_path: Path) -> None:
    model = settled_model(backbone="resnet18")
    saved(model, tmp_path / "model", "resnet18")
    assert_is_trunk_of(initial_trunk(str(tmp_path / "model"), "resnet18"), state_of(model.trunk))


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin"])
@pytest.mark.parametrize("form", ["torch", "legacy", "plain"])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, form: str, suffix: str) -> None:
    mark, place = tmp_path / "was-run", tmp_path / f"weights.{suffix}"
    content = {"conv1.weight": torch.zeros(1), "x": Malicious(mark)}
    if form == "plain":
        place.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, place, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(DataError, match="weights"):
        initial_trunk(str(place), "resnet18")
    assert not mark.exists()
    pickle.loads(place.read_bytes()) if form == "plain" else torch.load(place, weights_only=False)
    assert mark.exists(), "the trap itself does not work"


def test_weights_of_another_network_are_refused_with_the_first_names_of_both(
    tmp_path: Path, pretrained: torchvision.models.ResNet
) -> None:
    torch.save(pretrained.state_dict(), tmp_path / "resnet18.pth")
    said = (
        r"resnet18\.pth fit \d+ % of resnet50: .*layer2\.0\.conv1\.weight is .*, expected .*the file has fc"
    )
    with pytest.raises(DataError, match=said):
        initial_trunk(str(tmp_path / "resnet18.pth"), "resnet50")
    torch.save({"a.weight": torch.zeros(2), "b.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(DataError, match=r"resnet18 has conv1\.weight, .*the file has a\.weight, b\.weight"):
        initial_trunk(str(tmp_path / "other.pth"), "resnet18")


def test_what_fits_is_taken_and_the_log_names_what_is_new_and_what_was_left(
    tmp_path: Path, pretrained: torchvision.models.ResNet, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = pretrained.state_dict()
    del tensors["layer4.1.bn2.bias"]
    tensors["layer4.1.bn2.weight"] = torch.zeros(9)
    torch.save({"state_dict": {f"module.{n}": t for n, t in tensors.items()}}, tmp_path / "w.pth")
    found = initial_trunk(str(tmp_path / "w.pth"), "resnet18")
    assert found is not None
    assert {"layer4.1.bn2.bias", "layer4.1.bn2.weight"}.isdisjoint(found)
    assert torch.equal(found["layer4.1.bn1.weight"], tensors["layer4.1.bn1.weight"])
    (line,) = (r.message for r in caplog.records if r.levelname == "WARNING")
    assert "100.0 % of resnet18 loaded; new: layer4.1.bn2.weight, layer4.1.bn2.bias;" in line
    assert "of another shape: layer4.1.bn2.weight is (9,), expected (512,)" in line
    assert "left out: fc.weight, fc.bias" in line


def test_a_file_whose_names_are_others_and_whose_shapes_are_the_same_is_taken_in_order(
    tmp_path: Path, pretrained: torchvision.models.ResNet, caplog: pytest.LogCaptureFixture
) -> None:
    renamed = {f"_blocks.{i}": tensor for i, tensor in enumerate(pretrained.state_dict().values())}
    torch.save(renamed, tmp_path / "w.pth")
    assert_is_trunk_of(initial_trunk(str(tmp_path / "w.pth"), "resnet18"), state_of(pretrained))
    assert "no name fits resnet18, but all shapes do one by one: taken in order" in caplog.text


def test_position_embeddings_are_resampled_to_the_size(tmp_path: Path) -> None:
    source = build_trunk("test_vit", 160)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    found = initial_trunk(str(tmp_path / "w.pth"), "test_vit", 64)
    assert found is not None
    assert found["pos_embed"].shape == build_trunk("test_vit", 64).state_dict()["pos_embed"].shape
    assert source.state_dict()["pos_embed"].shape[1] > found["pos_embed"].shape[1]
    assert found.keys() == source.state_dict().keys()


def test_a_size_that_the_patch_does_not_divide_is_refused_with_the_next_two() -> None:
    with pytest.raises(
        ConfigError, match=r"256 px: vit_small_patch14_dinov2 has patches of 14 px; take 252 or 266"
    ):
        check_size("vit_small_patch14_dinov2", 256)
    check_size("vit_small_patch14_dinov2", 252)
    with pytest.raises(ConfigError, match="has no paths to drop"):
        build_trunk("vgg11", drop_path=0.1)


def test_a_hidden_layer_stands_between_embedding_and_outputs_and_is_saved(tmp_path: Path) -> None:
    model = MultiHeadModel(NARROW, HEADS, hidden=8).eval()
    saved(model, tmp_path / "model", hidden=8)
    card, weights = load_model(str(tmp_path / "model"))
    assert {"hidden.0.weight", "hidden.1.running_mean"} <= weights.keys()
    image = normalise(torch.from_numpy(pixels(3)), PREPROCESS)
    with torch.inference_mode():
        found, embedding = model_from_card(card, weights)(image)
        expected, _ = model(image)
        assert embedding.shape == (3, NARROW_DIM)
        behind = model.hidden(embedding)
        head = model.outputs["bookmark_logits"]
        torch.testing.assert_close(found["bookmark"], behind @ head.weight.T + head.bias)
    assert torch.equal(found["bookmark"], expected["bookmark"])
    plain = {name: array for name, array in weights.items() if not name.startswith("hidden.")}
    with pytest.raises(DataError, match=r"lacks hidden\.0\.weight"):
        model_from_card(card, plain)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"not weights at all", b"PK\x03\x04", b"\x80\x02", b"\x00" * 64], ids=len
)
def test_bytes_that_are_no_weights_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as weights"):
        initial_trunk(str(tmp_path / name), "resnet18")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_cut_file_is_refused(tmp_path: Path, pretrained: torchvision.models.ResNet, name: str) -> None:
    whole = tmp_path / f"whole-{name}"
    save_file(pretrained.state_dict(), whole) if name.endswith("safetensors") else torch.save(
        pretrained.state_dict(), whole
    )
    (tmp_path / name).write_bytes(whole.read_bytes()[:-100_000])
    with pytest.raises(DataError, match="cannot be read as weights"):
        initial_trunk(str(tmp_path / name), "resnet18")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {"conv1.weight": 0.0}}], ids=repr)
def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(DataError, match="not a state dict"):
        initial_trunk(str(tmp_path / "w.pth"), "resnet18")


@pytest.mark.parametrize("make", [lambda p: None, Path.mkdir], ids=["absent", "empty folder"])
def test_a_place_without_weights_is_refused_with_what_is_expected(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"nowhere: expected none, pretrained, a model directory"):
        initial_trunk(str(tmp_path / "nowhere"), "resnet18")


HUB_SCRIPT = """
from pix2score.errors import ConfigError
from pix2score.model.initial import initial_trunk
try:
    initial_trunk("pretrained", "vit_small_patch14_dinov2", 252)
except ConfigError as exc:
    print(exc)
"""


@pytest.mark.slow
def test_the_hub_without_a_network_names_the_file_to_fetch_in_one_line(tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads its settings once."""
    nobody = dict.fromkeys(("https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    env = {n: v for n, v in os.environ.items() if n.lower() != "no_proxy"}
    env |= {**nobody, "HF_HOME": str(tmp_path), "HF_ENDPOINT": "https://huggingface.co"}
    done = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT], env=env, capture_output=True, text=True, timeout=40, check=True
    )
    (line,) = done.stdout.strip().splitlines()
    assert "--weights pretrained: https://huggingface.co/timm/vit_small_patch14_dinov2" in line
    assert "model.safetensors cannot be reached" in line
    assert "fetch that file and pass its place" in line


def test_a_backbone_without_weights_in_the_hub_is_named() -> None:
    with pytest.raises(ConfigError, match="timm has no weights of resnet50_mlp"):
        initial_trunk("pretrained", "resnet50_mlp")


def test_weights_of_a_model_are_plain_arrays() -> None:
    weights = weights_of(settled_model())
    assert all(isinstance(array, np.ndarray) for array in weights.values())
    assert weights["trunk.bn1.num_batches_tracked"].dtype == np.int64


@pytest.mark.parametrize("name", ["type", "values", "keys", "update", "train", "float", "clear", "pop"])
def test_a_head_may_have_the_name_of_a_module_attribute(name: str) -> None:
    model = MultiHeadModel(NARROW, [OrderedHead(name=name, column=name, size=3)])
    logits, _ = model.eval()(torch.zeros(1, 3, 32, 32))
    assert logits[name].shape == (1, 3)


def test_a_model_that_starts_at_the_prior_answers_it_where_there_is_no_picture() -> None:
    model = MultiHeadModel(NARROW, HEADS)
    model.start_at_prior(HEADS)
    for head, logits in model.answers(torch.zeros(1, model.embedding_dim)).items():
        shares = torch.tensor(next(h for h in HEADS if h.name == head).train_counts, dtype=torch.float32)
        torch.testing.assert_close(logits.softmax(1)[0], shares / shares.sum(), rtol=1e-5, atol=1e-6)
    assert model.outputs["bookmark_logits"].weight.std() > 0
