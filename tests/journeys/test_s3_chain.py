"""The whole chain with everything on S3: catalog, images, dataset, model, checkpoints, scores."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pix2score import read_embeddings, read_scores
from pix2score.errors import DataError
from pix2score.evaluate.config import EvaluateConfig
from pix2score.evaluate.job import evaluate
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.verify import verify
from tests.conftest import BUCKET, SECRET
from tests.support.chain import Chain, run_chain, upload

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def s3_chain(chain: Chain, s3: Any) -> Chain:
    """The drawn catalog uploaded, and the chain run on it."""
    root = "s3-chain"
    upload(s3, chain.catalog, f"{root}/catalog")
    place = f"s3://{BUCKET}/{root}"
    made = run_chain(f"{place}/catalog", place, chain.drawn, num_workers=1)
    evaluate(EvaluateConfig(model=made.model, data=made.dataset, out=f"{place}/evaluation"))
    return made


@pytest.mark.slow
def test_scoring_on_s3_gives_what_it_gives_on_disk(chain: Chain, s3: Any, s3_place: str) -> None:
    prefix = s3_place.removeprefix(f"s3://{BUCKET}/")
    upload(s3, chain.catalog, f"{prefix}/catalog")
    upload(s3, chain.model, f"{prefix}/model")
    result = score(
        ScoreConfig(catalog=f"{s3_place}/catalog", model=f"{s3_place}/model", out=f"{s3_place}/scores")
    )
    assert result["failed_by_code"] == chain.scored["failed_by_code"]
    ours, theirs = (read_scores(place).to_table() for place in (f"{s3_place}/scores", chain.scores))
    for name in ("illust_id", "page", "status", "error_code", "fingerprint", "bookmark_bin"):
        assert ours.column(name).equals(theirs.column(name)), name
    assert (
        verify(VerifyConfig(scores=f"{s3_place}/scores", catalog=f"{s3_place}/catalog"))["rows"]
        == theirs.num_rows
    )


@pytest.mark.endurance
def test_the_chain_on_s3_gives_what_it_gives_on_disk(chain: Chain, s3_chain: Chain) -> None:
    assert s3_chain.prepared["rows"] == chain.prepared["rows"]
    assert s3_chain.trained["val_loss"] == pytest.approx(chain.trained["val_loss"], abs=1e-6)
    ours, theirs = (read_scores(c.scores).to_table() for c in (s3_chain, chain))
    for name in ("illust_id", "page", "status", "error_code", "fingerprint"):
        assert ours.column(name).equals(theirs.column(name)), name
    assert verify(VerifyConfig(scores=s3_chain.scores, catalog=s3_chain.catalog))["rows"] == theirs.num_rows
    assert read_embeddings(s3_chain.scores).count_rows() == read_embeddings(chain.scores).count_rows()


@pytest.mark.endurance
def test_no_secret_stands_in_any_object(s3_chain: Chain, s3: Any) -> None:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="s3-chain/")
    keys = [
        entry["Key"]
        for page in pages
        for entry in page.get("Contents", ())
        if entry["Key"].endswith((".json", ".jsonl", ".pt"))
    ]
    assert len(keys) >= 5
    for key in keys:
        assert SECRET.encode() not in s3.get_object(Bucket=BUCKET, Key=key)["Body"].read(), key


def test_a_missing_bucket_is_named(chain: Chain, s3_place: str) -> None:
    with pytest.raises(DataError, match="no-such-bucket"):
        score(ScoreConfig(catalog="s3://no-such-bucket/catalog", model=chain.model, out=s3_place))


@pytest.mark.endurance
def test_the_summary_of_a_run_is_on_s3(s3_chain: Chain, s3: Any) -> None:
    key = f"s3-chain/scores/runs/{s3_chain.scored['run']}/summary.json"
    assert json.loads(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())["snapshot"] == 1
