"""The example configuration of every job is one that the job accepts, from disk and from S3."""

from __future__ import annotations

import contextlib
import tomllib
from typing import Any

import pytest

from pix2score.align.config import AlignConfig
from pix2score.ascend.config import AscendConfig
from pix2score.cli.flags import as_plain, resolve
from pix2score.cli.settings import settings_of
from pix2score.compare.config import CompareConfig
from pix2score.ensemble.config import EnsembleConfig
from pix2score.errors import ConfigError
from pix2score.evaluate.config import EvaluateConfig
from pix2score.kpi.config import KpiConfig
from pix2score.neighbours.config import DuplicatesConfig, IndexConfig, SimilarConfig
from pix2score.prepare.config import PrepareConfig
from pix2score.pseudo.config import PseudoConfig
from pix2score.refit.config import RefitConfig
from pix2score.report.config import ReportConfig
from pix2score.score.config import ScoreConfig
from pix2score.serve.config import ExportConfig
from pix2score.service.config import ServeConfig
from pix2score.snapshots.config import HistoryConfig, PublishConfig, VerifyConfig
from pix2score.train.job import TrainConfig
from pix2score.train.repair_config import RepairConfig
from tests.conftest import BUCKET
from tests.support.paths import ROOT

CONFIGS = ROOT / "jobs/examples"
CLASSES: dict[str, Any] = {
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "ensemble": EnsembleConfig,
    "align": AlignConfig,
    "pseudo": PseudoConfig,
    "compare": CompareConfig,
    "repair": RepairConfig,
    "score": ScoreConfig,
    "verify": VerifyConfig,
    "report": ReportConfig,
    "publish": PublishConfig,
    "history": HistoryConfig,
    "export": ExportConfig,
    "ascend": AscendConfig,
    "kpi": KpiConfig,
    "refit": RefitConfig,
    "index": IndexConfig,
    "similar": SimilarConfig,
    "serve": ServeConfig,
    "duplicates": DuplicatesConfig,
}


def agree(written: dict[str, Any], resolved: dict[str, Any]) -> bool:
    """Whether each written setting came out as it stands in the file."""
    for key, value in written.items():
        found = resolved[key]
        if isinstance(value, dict):
            if not agree(value, found):
                return False
        elif (list(found) if isinstance(found, tuple) else found) != value:
            return False
    return True


def test_every_job_has_an_example() -> None:
    assert {path.stem for path in CONFIGS.glob("*.toml")} == set(CLASSES)


@pytest.mark.parametrize("job", CLASSES)
def test_the_example_resolves_to_what_it_says(job: str) -> None:
    path = CONFIGS / f"{job}.toml"
    assert agree(tomllib.loads(path.read_text()), as_plain(resolve(CLASSES[job], ["--config", str(path)])))


@pytest.mark.parametrize("job", CLASSES)
def test_the_example_is_read_from_s3_too(job: str, s3: Any) -> None:
    s3.upload_file(str(CONFIGS / f"{job}.toml"), BUCKET, f"configs/{job}.toml")
    from_s3 = resolve(CLASSES[job], ["--config", f"s3://{BUCKET}/configs/{job}.toml"])
    assert from_s3 == resolve(CLASSES[job], ["--config", str(CONFIGS / f"{job}.toml")])


@pytest.mark.parametrize("job", CLASSES)
def test_every_flag_takes_a_word_or_refuses_it_by_name(job: str) -> None:
    for setting in settings_of(CLASSES[job]):
        if not setting.is_table:
            with contextlib.suppress(ConfigError):
                setting.value("nonsense")
