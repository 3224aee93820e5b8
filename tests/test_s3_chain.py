"""The whole chain with everything on S3: catalog, images, dataset, model, checkpoints, scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pix2score import read_embeddings, read_scores
from pix2score.errors import DataError
from pix2score.score import ScoreConfig, score
from pix2score.verify import VerifyConfig, verify
from tests.chain import Chain, run_chain
from tests.conftest import BUCKET, SECRET

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def s3_chain(chain: Chain, s3: Any) -> Chain:
    """The drawn catalog uploaded, and the chain run on it."""
    root = "s3-chain"
    for path in Path(chain.catalog).rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), BUCKET, f"{root}/catalog/{path.relative_to(chain.catalog)}")
    return run_chain(f"s3://{BUCKET}/{root}/catalog", f"s3://{BUCKET}/{root}", chain.drawn)


def test_the_chain_on_s3_gives_what_it_gives_on_disk(chain: Chain, s3_chain: Chain) -> None:
    assert s3_chain.prepared["rows"] == chain.prepared["rows"]
    assert s3_chain.trained["val_loss"] == pytest.approx(chain.trained["val_loss"], abs=1e-6)
    ours, theirs = (read_scores(c.scores).to_table() for c in (s3_chain, chain))
    for name in ("illust_id", "page", "status", "error_code", "fingerprint"):
        if name != "error_code":
            assert ours.column(name).equals(theirs.column(name)), name
    assert verify(VerifyConfig(scores=s3_chain.scores, catalog=s3_chain.catalog))["rows"] == theirs.num_rows
    assert read_embeddings(s3_chain.scores).count_rows() == read_embeddings(chain.scores).count_rows()


def test_no_secret_stands_in_any_object(s3_chain: Chain, s3: Any) -> None:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="s3-chain/")
    keys = [
        entry["Key"] for page in pages for entry in page.get("Contents", ()) if entry["Key"].endswith((".json", ".jsonl", ".pt"))
    ]
    assert len(keys) >= 5
    for key in keys:
        assert SECRET.encode() not in s3.get_object(Bucket=BUCKET, Key=key)["Body"].read(), key


def test_a_missing_bucket_is_named(s3_chain: Chain) -> None:
    with pytest.raises(DataError, match="no-such-bucket"):
        score(ScoreConfig(catalog="s3://no-such-bucket/catalog", model=s3_chain.model, out=s3_chain.scores))


def test_the_summary_of_a_run_is_on_s3(s3_chain: Chain, s3: Any) -> None:
    key = f"s3-chain/scores/runs/{s3_chain.scored['run']}/summary.json"
    assert json.loads(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())["snapshot"] == 1
