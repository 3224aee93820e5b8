"""The network, its input, and the weights that a trunk may start from."""

from __future__ import annotations

import pickle
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
from pix2score.model.backbones import BACKBONES, check_backbone
from pix2score.model.folder import load_model, save_model
from pix2score.model.initial import initial_trunk
from pix2score.model.network import MultiHeadModel, load_exactly, model_from_card, normalise, weights_of
from tests.support.torch_helpers import HEADS, PREPROCESS, pixels, settled_model, state_of


@pytest.mark.parametrize(
    "refuse",
    [check_backbone, lambda name: MultiHeadModel(name, HEADS), lambda name: initial_trunk("none", name)],
)
@pytest.mark.parametrize("name", ["vgg16", "", "resnet18; rm", "__import__"])
def test_a_backbone_outside_the_list_is_refused_with_the_known_ones(
    refuse: Callable[[str], object], name: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        refuse(name)
    assert repr(name) in str(refused.value)
    assert all(known in str(refused.value) for known in BACKBONES)


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
    model = settled_model()
    plain = torchvision.models.resnet18(weights=None)
    plain.load_state_dict(model.trunk.state_dict(), strict=False)
    plain.fc = torch.nn.Identity()
    image = normalise(torch.from_numpy(pixels(3)), PREPROCESS)
    with torch.inference_mode():
        logits, embedding = model(image)
        torch.testing.assert_close(embedding, plain.eval()(image))
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


def saved(model: MultiHeadModel, place: Path) -> None:
    save_model(
        str(place),
        weights_of(model),
        backbone="resnet18",
        heads=HEADS,
        preprocess=PREPROCESS,
        embedding_dim=512,
        temperatures={},
        about={},
    )


@pytest.fixture(scope="module")
def pretrained() -> torchvision.models.ResNet:
    torch.manual_seed(7)
    return torchvision.models.resnet18(weights=None)


def assert_is_trunk_of(found: dict[str, Tensor] | None, whole: dict[str, Tensor]) -> None:
    assert found is not None
    expected = {name: t for name, t in whole.items() if not name.startswith("fc.")}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    MultiHeadModel("resnet18", HEADS).trunk.load_state_dict(found)


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
    model = settled_model()
    saved(model, tmp_path / "model")
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


def test_weights_of_another_network_are_refused_with_the_keys(
    tmp_path: Path, pretrained: torchvision.models.ResNet
) -> None:
    torch.save(pretrained.state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(DataError, match=r"layer1\.0\.conv3\.weight") as refused:
        initial_trunk(str(tmp_path / "resnet18.pth"), "resnet50")
    assert "resnet18.pth" in str(refused.value)


def test_a_model_directory_of_another_network_is_refused_with_the_keys(tmp_path: Path) -> None:
    saved(settled_model(), tmp_path / "model")
    with pytest.raises(DataError, match=r"layer1\.2\.conv1\.weight"):
        initial_trunk(str(tmp_path / "model"), "resnet34")


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
    with pytest.raises(DataError, match=r"nowhere: expected none, imagenet, a model directory"):
        initial_trunk(str(tmp_path / "nowhere"), "resnet18")


@pytest.mark.timeout(20)
def test_imagenet_without_a_network_says_what_to_do_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # nothing downloaded before
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there: no network anywhere
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ConfigError, match=r"imagenet.*https://.*resnet18.*cannot be reached.*--weights none"):
        initial_trunk("imagenet", "resnet18")
    assert not list(tmp_path.rglob("*.pth"))


def test_weights_of_a_model_are_plain_arrays() -> None:
    weights = weights_of(settled_model())
    assert all(isinstance(array, np.ndarray) for array in weights.values())
    assert weights["trunk.bn1.num_batches_tracked"].dtype == np.int64


@pytest.mark.parametrize("name", ["type", "values", "keys", "update", "train", "float", "clear", "pop"])
def test_a_head_may_have_the_name_of_a_module_attribute(name: str) -> None:
    model = MultiHeadModel("resnet18", [OrderedHead(name=name, column=name, size=3)])
    logits, _ = model.eval()(torch.zeros(1, 3, 32, 32))
    assert logits[name].shape == (1, 3)
