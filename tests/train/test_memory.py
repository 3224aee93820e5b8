"""The budget of a worker's memory is read in words, and what a worker took at most is measured."""

from __future__ import annotations

import pytest
import torch

from pix2score.errors import ConfigError
from pix2score.train.config import TrainConfig
from pix2score.train.job import train
from pix2score.train.memory import Peak, parse_budget
from tests.support.chain import Chain


def test_a_budget_is_a_number_of_gib_or_mib() -> None:
    assert parse_budget("12GiB") == 12 * 2**30
    assert parse_budget("1.5 GiB") == 3 * 2**29
    assert parse_budget("800MiB") == 800 * 2**20


@pytest.mark.parametrize("wrong", ["12", "12GB", "GiB", "-1GiB", "0GiB", ""])
def test_another_word_is_refused_before_anything_starts(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a size such as 12GiB or 800MiB"):
        TrainConfig(data="d", out="o", memory=wrong)


@pytest.mark.usefixtures("ray_session")
def test_a_budget_without_a_gpu_is_refused_with_what_takes_less(chain: Chain, tmp_path: object) -> None:
    with pytest.raises(ConfigError, match=r"memory 12GiB: holds workers on GPUs, .* smaller batch_size"):
        train(TrainConfig(data=chain.dataset, out=f"{tmp_path}/model", memory="12GiB", device="cpu"))


def test_the_peak_of_a_process_without_a_gpu_grows_by_what_it_held() -> None:
    peak = Peak(torch.device("cpu"))
    before = peak.take_mib()
    held = torch.ones(int((before + 100) * 2**18))  # float32: more than the process ever held
    del held
    assert peak.take_mib() > before + 90
