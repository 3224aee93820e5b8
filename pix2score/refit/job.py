"""refit: labels have moved, pictures have not: heads are learnt anew from stored embeddings.

No picture is read. The result has the trunk of the model that it begins with, so that ``score`` answers from
stored embeddings too.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pix2score.catalog.several import Catalogs, open_catalogs
from pix2score.cli.flags import as_plain
from pix2score.cli.summary import recorded
from pix2score.cli.tables import aligned
from pix2score.errors import ConfigError, DataError
from pix2score.heads.spec import HeadSpec
from pix2score.metrics.kinds import calibrations, loss_metric, main_metric, results
from pix2score.metrics.protocol import Accumulator
from pix2score.model.card import CARD, ModelCard
from pix2score.model.folder import Weights, load_model, save_model, trunk_weights
from pix2score.refit.config import RefitConfig
from pix2score.refit.rows import SplitRows, read_rows
from pix2score.snapshots.identity import model_of
from pix2score.snapshots.manifest import live
from pix2score.snapshots.snapshot import Snapshot
from pix2score.storage.folder import Folder
from pix2score.summaries import RefitSummary

if TYPE_CHECKING:
    from pix2score.model.network import MultiHeadModel

logger = logging.getLogger(__name__)


def refit(config: RefitConfig) -> RefitSummary:
    """Write a model with the same trunk and heads of today's labels; return its version and numbers.

    Raises:
        ConfigError: a head learns from comparisons.
        DataError: no model, no scores, embeddings of another trunk, a label column that is missing, or too
            few rows with a label and an embedding.
    """
    card, weights = load_model(config.model)
    snapshot, out = live(config.scores), Folder(config.out)
    if out.is_file(CARD):
        raise DataError(f"{out.uri} holds a model already; give another --out")
    _check_trunk(config, card, snapshot)
    heads = config.given_heads() or card.heads
    _refuse_comparing(heads)
    catalogs = open_catalogs([config.catalog], config.columns, heads, {})
    facts = {"job": "refit", "out": out.uri, "refitted_version": card.version, "snapshot": snapshot.number}
    with recorded(out, "summary.json", facts) as summary, tempfile.TemporaryDirectory() as scratch:
        rows, fitted = read_rows(catalogs, heads, config.rule, Folder(config.scores), snapshot, Path(scratch))
        summary.update(_refitted(config, card, weights, snapshot, catalogs, rows, fitted))
    return cast("RefitSummary", summary)


def _check_trunk(config: RefitConfig, card: ModelCard, snapshot: Snapshot) -> None:
    if card.trunk_version is None:
        what = (
            "an ensemble" if card.members else "of an earlier version, whose heads saw embeddings unrounded"
        )
        raise DataError(f"model {config.model} is {what}: its heads cannot be learnt from stored embeddings")
    of_scores = model_of(snapshot.manifest.get("trunk_version") or "")  # whichever engine embedded
    if of_scores != card.trunk_version:
        raise DataError(
            f"embeddings in {config.scores} are of trunk {of_scores or '(not said)'}, model {config.model} "
            f"has trunk {card.trunk_version}: give the model that scored them, or one with its trunk"
        )


def _refuse_comparing(heads: Sequence[HeadSpec]) -> None:
    compared = [head.name for head in heads if head.COMPARES]
    if compared:
        raise ConfigError(
            f"head {compared[0]} learns from comparisons, which a catalog has not; name the other heads in "
            "[[heads]] of --config"
        )


def _refitted(
    config: RefitConfig,
    card: ModelCard,
    weights: Weights,
    snapshot: Snapshot,
    catalogs: Catalogs,
    rows: Mapping[str, SplitRows],
    heads: Sequence[HeadSpec],
) -> dict[str, Any]:
    from pix2score.model.network import MultiHeadModel, weights_of  # imports torch
    from pix2score.refit.solve import batch_of, solved
    from pix2score.refit.steps import learnt

    model = MultiHeadModel(card.backbone, heads, size=card.preprocess.size, hidden=config.hidden)
    model.eval()
    train, val = (batch_of(rows[split], heads) for split in ("train", "val"))
    penalties: dict[str, float] = {}
    if config.hidden:
        metrics = learnt(model, heads, train, val, config.epochs)
    else:
        metrics, penalties = solved(model, heads, train, val, config.sample_rows)
    about: dict[str, Any] = {
        "val": results([m.calibrated() for m in metrics]),
        "penalties": penalties,
        "refit": {
            "of": card.version,
            "scores": config.scores,
            "snapshot": snapshot.number,
            "rows": {split: found.num_rows for split, found in rows.items()},
        },
        "columns": as_plain(catalogs.first.asked),
        "config": as_plain(config),
    }
    made = _save(config.out, card, weights, model, heads, metrics, about)
    now = _tested(made, weights_of(model) | trunk_weights(weights), rows["test"], heads)
    before = _tested(card, weights, rows["test"], _shared(card.heads, heads))
    logger.info("test split, %d rows:\n%s", rows["test"].num_rows, _table(now, before, heads))
    return {
        "model_version": made.version,
        "trunk_version": made.trunk_version,
        "rows": about["refit"]["rows"],
        "penalties": penalties,
        "val": about["val"],
        "test": now,
        "test_before": before,
    }


def _tested(
    card: ModelCard, weights: Weights, test: SplitRows, heads: Sequence[HeadSpec]
) -> dict[str, dict[str, Any]]:
    """Numbers of a model's answers on today's labels of a split that nothing was learnt from."""
    from pix2score.model.answers import EmbeddingPredictor
    from pix2score.refit.solve import batch_of, measured_by

    return results(measured_by(EmbeddingPredictor(card, weights), batch_of(test, heads), heads))


def _shared(old: Sequence[HeadSpec], new: Sequence[HeadSpec]) -> list[HeadSpec]:
    """Old heads that have a new one of their name and kind."""
    kinds = {head.name: head.kind for head in new}
    return [head for head in old if kinds.get(head.name) == head.kind]


def _save(
    out: str,
    card: ModelCard,
    weights: Weights,
    model: MultiHeadModel,
    heads: Sequence[HeadSpec],
    metrics: Sequence[Accumulator],
    about: dict[str, Any],
) -> ModelCard:
    from pix2score.model.graph import graph_or_none
    from pix2score.model.network import weights_of

    behind = {name: array for name, array in weights_of(model).items() if name not in trunk_weights(weights)}
    return save_model(
        out,
        {**trunk_weights(weights), **behind},
        backbone=card.backbone,
        heads=tuple(heads),
        preprocess=card.preprocess,
        embedding_dim=card.embedding_dim,
        **calibrations(metrics),
        about=about,
        hidden=about["config"]["hidden"],
        embedding_dtype=card.embedding_dtype,
        graph=graph_or_none,
    )


def _table(
    now: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]], heads: Sequence[HeadSpec]
) -> str:
    rows = [["head", "labels", "number", "old heads", "new heads", "loss", "old heads", "new heads"]]
    for head in heads:
        main, loss = main_metric(head), loss_metric(head)
        cells = [_shown(found.get(head.name, {}), name) for name in (main, loss) for found in (before, now)]
        rows.append([head.name, str(now[head.name]["num_labelled"]), main, *cells[:2], loss, *cells[2:]])
    return aligned(rows)


def _shown(numbers: Mapping[str, Any], name: str) -> str:
    value = numbers.get(name)
    return "-" if value is None else f"{value:.3f}"
