"""Size and arithmetic of networks as they are published, and the time and memory that a training noted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pix2score.compare.cost import Cost, cost_of, mean_cost, size_and_flops
from pix2score.images.preprocess import Preprocess
from pix2score.model.folder import ModelCard
from tests.support.torch_helpers import COUNT_HEAD


def card_of(backbone: str, width: int) -> ModelCard:
    return ModelCard(
        backbone=backbone,
        heads=(COUNT_HEAD,),
        preprocess=Preprocess(size=224),
        embedding_dim=width,
        temperatures={},
        weights_sha256="",
    )


@pytest.mark.parametrize(
    ("backbone", "width", "millions", "gflops"),
    [
        # timm's table says 11.18 and 85.80 million without the output layer, 1.82 and 17.58 GMACs at 224 px.
        ("resnet18", 512, 11.18, 2 * 1.82),
        ("vit_base_patch16_224.dino", 768, 85.80, 2 * 17.58),
    ],
)
def test_parameters_and_flops_are_those_published(
    backbone: str, width: int, millions: float, gflops: float
) -> None:
    parameters, flops = size_and_flops(card_of(backbone, width))
    assert parameters / 1e6 == pytest.approx(millions + (width + 1) * COUNT_HEAD.num_outputs / 1e6, abs=0.01)
    assert flops / 1e9 == pytest.approx(gflops, rel=0.005)


def test_time_and_memory_are_those_of_the_history(tmp_path: Path) -> None:
    epochs = [
        {"seconds": 2.0, "images_per_s": 100.0, "peak_memory_mib": 700.0},
        {"seconds": 1.0, "images_per_s": 130.0, "peak_memory_mib": 900.0},
    ]
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in epochs))
    card = card_of("resnet18", 512)
    found = cost_of(str(tmp_path), card, use_gpu=True)
    assert (found.epochs, found.train_seconds, found.peak_memory_mib) == (2, 3.0, 900.0)
    assert found.train_images_per_s == pytest.approx(110)
    assert cost_of(str(tmp_path), card, use_gpu=False).peak_memory_mib is None


def test_a_runs_cost_is_the_mean_of_its_models_and_the_most_memory() -> None:
    def record(rate: float | None, seconds: float, memory: float | None, epochs: int) -> dict[str, object]:
        return Cost(
            parameters_m=1.0,
            gflops=2.0,
            train_images_per_s=rate,
            train_seconds=seconds,
            peak_memory_mib=memory,
            epochs=epochs,
        ).to_dict()

    found = mean_cost([record(10.0, 4.0, 100.0, 3), record(20.0, 8.0, 300.0, 4)])
    assert (found.train_images_per_s, found.train_seconds, found.peak_memory_mib) == (15.0, 6.0, 300.0)
    assert found.epochs == 3.5
    assert mean_cost([record(None, 0.0, None, 1)]).peak_memory_mib is None
