"""A night as a scheduler of Python runs it: a function that returns what was done, or raises what went wrong.

``python jobs/examples/nightly.py CATALOG MODEL SCORES``; or ``night`` inside a task of Airflow or Prefect, or
an asset of Dagster.
"""

from __future__ import annotations

import logging
import sys

from pix2score import ConflictError, ScoreConfig, ScoreSummary, VerifyConfig, score, verify


def night(catalog: str, model: str, scores: str) -> ScoreSummary:
    """Score what is new and check what is published then.

    Raises ``LimitError`` where too much failed or went, ``UserError`` for a mistake in one line.
    """
    config = ScoreConfig(catalog=catalog, model=model, out=scores)
    try:
        summary = score(config)
    except ConflictError:  # another run published first; what this one did is staged
        summary = score(config)
    verify(VerifyConfig(scores=scores, catalog=catalog))
    return summary


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)  # a job of ours says nothing unless its process asks for it
    done = night(*sys.argv[1:])
    print(f"snapshot {done['snapshot']}: {done['planned']} planned, {done['carried']} carried over")
