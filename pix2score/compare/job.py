"""compare: several recipes over one dataset, with several seeds each, in one table and page.

Owns a folder:

    NAME-seedK/             a training of jobs.train each, with its model
    NAME-seedK/SPLIT/       that model measured on the split (``compare.measuring``)
    compare.json            written last: all that the table and the page say, and more
    report.html             the page
    summary.json            what the job printed
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, cast

from pix2score.cli.flags import as_plain
from pix2score.cli.summary import recorded
from pix2score.cluster.offer import Offer
from pix2score.cluster.session import session
from pix2score.compare.config import CompareConfig
from pix2score.compare.findings import ComparedRuns, Run, compared_runs
from pix2score.compare.measuring import labels_by_head, measured
from pix2score.compare.page import comparison_page
from pix2score.compare.table import table_text
from pix2score.compare.trainings import (
    Progress,
    Training,
    message_of,
    num_side_by_side,
    train_all,
    trainings_of,
)
from pix2score.dataset.card import PreparedDataset, open_dataset
from pix2score.errors import ConfigError, DataError, TrainingError
from pix2score.evaluate.baseline import fit_ridges
from pix2score.report.page import check_packages
from pix2score.storage.folder import Folder
from pix2score.summaries import CompareSummary
from pix2score.train.job import train

logger = logging.getLogger(__name__)
RIDGE_ROWS = 20_000
"""Train images that the ridge reference learns from, as in ``jobs.evaluate``."""


def compare(config: CompareConfig) -> CompareSummary:
    """Train and measure what is not done yet, and write compare.json and report.html; return what they say.

    A run that fails is a row that says why, and the rest goes on. Raises:
        DataError: no dataset, or no label in the split.
        TrainingError: everything failed; it names the first failure. All is written by then.
    """
    dataset, out = open_dataset(config.data), Folder(config.out)
    heads = _labelled_heads(config, dataset)
    for split in ("train", "val"):
        dataset.parts(split)
    gpu_wait_s = max(config.training(run, config.seeds[0]).gpu_wait_s for run in config.runs)
    with (
        session(gpu_wait_s=gpu_wait_s) as offer,
        recorded(out, "summary.json", {"job": "compare", "out": out.uri}) as summary,
    ):
        trainings = trainings_of(config, offer)
        failures = _train(config, trainings, dataset, offer)
        found = compared_runs(_runs(config, trainings, dataset, failures), heads)
        summary.update(dataset_id=dataset.id, split=config.split, **found.to_dict())
        _publish(out, config, summary, found)
        logger.info("on split %s of dataset %s:\n%s", config.split, dataset.id, table_text(found))
        if len(failures) == len(trainings):
            name, why = next(iter(failures.items()))
            raise TrainingError(f"all {len(failures)} trainings failed; the first, {name}: {why}")
    return cast("CompareSummary", summary)


def _labelled_heads(config: CompareConfig, dataset: PreparedDataset) -> list[str]:
    """Names of the heads that can be measured. Raises ``DataError`` if none can."""
    found = labels_by_head(dataset, config.split)
    without = [name for name, number in found.items() if not number]
    if len(without) == len(found):
        raise DataError(
            f"no row of split {config.split} of {dataset.folder.uri} has a label ({', '.join(without)}): "
            "there is nothing to compare on; give another --split"
        )
    if without:
        logger.warning("no label in split %s for %s: not compared", config.split, ", ".join(without))
    return [name for name, number in found.items() if number]


def _train(
    config: CompareConfig, trainings: Sequence[Training], dataset: PreparedDataset, offer: Offer
) -> dict[str, str]:
    """Name -> why, of each that failed."""
    failures: dict[str, str] = {}
    done = [training for training in trainings if training.is_done(dataset)]
    for training in done:
        try:
            train(training.config)  # returns at once, or refuses what another config has made
        except Exception as exc:
            failures[training.name] = message_of(exc)
            logger.error("%s: %s", training.name, failures[training.name])
    if done:
        logger.info("%d of %d trainings were done before", len(done), len(trainings))

    def said(training: Training) -> str:
        return _said(training, dataset)

    rest = [training for training in trainings if training not in done]
    if not rest:
        return failures
    logger.info("fitting the ridge regression that is shown beside the models")
    ridges = fit_ridges(dataset, dataset.heads, RIDGE_ROWS, offer)
    at_a_time = num_side_by_side(trainings, offer, config.side_by_side)
    return failures | train_all(rest, dataset, ridges, offer, Progress(len(rest), at_a_time, said))


def _said(training: Training, dataset: PreparedDataset) -> str:
    """Main number of each head: ``bookmark spearman 0.512, view 0.431``."""
    found = measured(training.config.out, training.split, dataset)
    metrics = found.record["metrics"] if found else {}
    numbers = [
        f"{head} {of['main']} {of[of['main']]:.3f}"
        for head, of in metrics.items()
        if of["num_labelled"] and of[of["main"]] is not None
    ]
    return ", ".join(numbers) or "no number"


def _runs(
    config: CompareConfig,
    trainings: Sequence[Training],
    dataset: PreparedDataset,
    failures: dict[str, str],
) -> list[Run]:
    found = []
    for run in config.runs:
        own = [training for training in trainings if training.run == run["name"]]
        ended = [training for training in own if training.name not in failures]
        models = {t.seed: measured(t.config.out, t.split, dataset) for t in ended}
        found.append(
            Run(
                name=run["name"],
                backbone=own[0].config.backbone,
                models={seed: model for seed, model in models.items() if model},
                places={training.seed: training.config.out for training in ended},
                failures={t.seed: failures[t.name] for t in own if t.name in failures},
            )
        )
    return found


def _publish(out: Folder, config: CompareConfig, summary: dict[str, Any], found: ComparedRuns) -> None:
    try:
        check_packages()
    except ConfigError as exc:  # the numbers are what was asked for; the page is for looking
        logger.warning("no report.html: %s", exc)
    else:
        page = comparison_page(found, split=config.split, dataset_id=str(summary["dataset_id"]))
        out.publish("report.html", page, replace=True)
    content = {**summary, "config": as_plain(config)}
    out.publish("compare.json", json.dumps(content, indent=1, ensure_ascii=False).encode(), replace=True)
