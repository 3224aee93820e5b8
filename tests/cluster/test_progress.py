"""The driver's lines about long work: how much is done, how fast, how much is left."""

from __future__ import annotations

import logging
import re
import time

import pytest

from pix2score.cluster import progress

logger = logging.getLogger("tests.progress")


def test_what_was_done_before_anybody_looked_is_not_in_the_rate(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    meter = progress.Meter("scored", 1000, logger)
    with caplog.at_level(logging.INFO, logger.name):
        now[0] += 60  # a start-up, in which 500 were done
        meter.add(500)
        now[0] += 20
        meter.add(100)
        assert caplog.messages == ["scored: 600 of 1000, 5.0/s, about 80 s left"]
        meter.begin_at(900)
        meter.add(50)
        now[0] += 10
        meter.add(0)  # a standstill since the first
    assert caplog.messages[1:] == ["scored: 950 of 1000, 5.0/s, about 10 s left"]


@pytest.mark.usefixtures("ray_session")
def test_work_that_goes_on_counts_what_was_done_before_but_not_in_its_rate(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.5)

    def has_line() -> bool:
        return any(record.getMessage().startswith("trained") for record in caplog.records)

    with caplog.at_level(logging.INFO, logger.name), progress.board("trained", 1000, logger) as board:
        board.begin_at(900)
        board.say("resuming")
        started, num_added = time.monotonic(), 0
        while time.monotonic() - started < 4 or not (has_line() or time.monotonic() - started > 60):
            time.sleep(0.1)
            board.add(1)
            num_added += 1
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "resuming"
    done, rate = re.match(r"trained: (\d+) of 1000, ([\d.]+)/s, about \d+ s left", lines[-1]).groups()  # type: ignore[union-attr]
    assert 910 <= int(done) <= 900 + num_added
    assert 5 < float(rate) < 20  # ten a second, not the nine hundred
