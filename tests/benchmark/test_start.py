"""What one image costs, by cause."""

from __future__ import annotations

import pytest

from tests.support.jobs import summary_of


@pytest.mark.slow
def test_what_one_image_costs_is_given_by_cause() -> None:
    found = summary_of("benchmark", "--stage=start", "--input-size=32", "--runs=1")["start"]
    assert list(found["causes_s"]) == [
        "import",
        "check_inputs",
        "start_ray",
        "plan",
        "first_piece",
        "publish",
        "end",
    ]
    assert all(seconds >= 0 for seconds in found["causes_s"].values())
    assert sum(found["causes_s"].values()) == pytest.approx(found["seconds"], abs=0.1)
