"""Training is timed beside a ready batch and beside the original files."""

from __future__ import annotations

import pytest

from tests.support.jobs import summary_of


@pytest.mark.endurance
@pytest.mark.timeout(600)
def test_training_is_timed_beside_a_ready_batch_and_the_original_files() -> None:
    found = summary_of(
        "benchmark",
        "--stage=train",
        "--num-images=60",
        "--side=320",
        "--input-size=32",
        "--batch-size=8",
        "--runs=1",
    )["train"]
    assert found["share"] == pytest.approx(found["job_per_s"] / found["ready_per_s"], abs=0.02)
    assert min(found.values()) > 0
