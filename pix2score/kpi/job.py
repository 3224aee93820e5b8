"""kpi: from stored embeddings and a table of labels to a fitted model, and from that to a table of
expectations.

Neither pictures nor a network are touched.
"""

from __future__ import annotations

import json
import logging
from typing import Any, cast

import duckdb
import numpy as np

from pix2score.cli.flags import as_plain
from pix2score.cli.packages import need, versions
from pix2score.cli.summary import recorded
from pix2score.dataset.plan import SplitRule
from pix2score.errors import ConfigError, DataError
from pix2score.heads.quantiles import NUM_LEVELS
from pix2score.kpi.apply import apply
from pix2score.kpi.config import EMBEDDING, SCORES, KpiConfig
from pix2score.kpi.features import Features, score_columns
from pix2score.kpi.fit import best_by_validation, fit_models, metrics, told
from pix2score.kpi.label_rows import described, load_labels
from pix2score.kpi.labels import Labels, open_labels
from pix2score.kpi.models import CARD, Fitted, save
from pix2score.kpi.rows import Source, join_labels, load_positions, load_scores, open_source
from pix2score.kpi.table import Table, read_table
from pix2score.storage.folder import Folder
from pix2score.storage.sql import engine
from pix2score.summaries import KpiSummary

logger = logging.getLogger(__name__)
METRICS = "metrics.json"


def kpi(config: KpiConfig) -> KpiSummary:
    """Fit a KPI, or with ``apply`` write what a fitted one expects; return the main facts.

    Raises:
        ConfigError: packages of the extra ``kpi`` are missing.
        DataError: no scores, labels that cannot be learnt from, or a model of other embeddings.
    """
    _check_packages()
    return cast("KpiSummary", apply(config) if config.apply else fit(config))


def _check_packages() -> None:
    need("jobs.kpi", "kpi", ("lightgbm", "scipy"))
    try:
        import lightgbm  # noqa: F401
    except OSError as exc:  # its own library, or the one of OpenMP, is not there
        raise ConfigError(
            f"LightGBM cannot be loaded: {exc}; it needs the library libgomp (apt-get install libgomp1)"
        ) from None


def fit(config: KpiConfig) -> dict[str, Any]:
    """Write the best of the four models and the numbers of all to ``config.out``; return them."""
    assert config.labels is not None and config.out is not None, "the config refuses a fit without"
    out, source = Folder(config.out), open_source(config.scores)
    if out.is_file(CARD):
        raise DataError(f"{out.uri} holds a fitted KPI already; give another --out")
    labels = open_labels(config.labels, config.side_names, with_kpi=True)
    with recorded(out, "summary.json", {"job": "kpi", "out": out.uri}) as summary:
        table, counts = _read(config, source, labels)
        summary["labels"] = counts
        fits = fit_models(table, config.seed)
        best = best_by_validation(table, fits)
        found = metrics(table, fits, best)
        logger.info("\n%s", told(found))
        if not found["reliable"]:
            logger.warning("%d rows of the test split say little: wide intervals", found["rows"]["test"])
        held_out = np.concatenate([fits.val[best], fits.test[best]])
        fitted = Fitted(
            model=fits.models[best],
            features=table.features,
            scale=table.scale,
            quantiles=np.quantile(held_out, np.linspace(0, 1, NUM_LEVELS)),
            model_version=source.model_version,
            about=_about(config, source, counts),
        )
        out.publish(METRICS, json.dumps(found, indent=1).encode(), replace=True)
        summary["kpi_version"] = save(out, fitted)
        summary.update({name: found[name] for name in ("target", "best", "rows")})
        summary["test"] = {name: of["test"][found["main"]] for name, of in found["models"].items()}
    return summary


def _read(config: KpiConfig, source: Source, labels: Labels) -> tuple[Table, dict[str, Any]]:
    """The labelled rows with their features, and what became of all labels."""
    names = config.names
    features = Features(
        embedding_dim=source.layout.embedding_dim if EMBEDDING in names else 0,
        scores=score_columns(source.layout, config.scores) if SCORES in names else (),
        side=labels.side,
    )
    rule = SplitRule(val_fraction=config.val_fraction, test_fraction=config.test_fraction, max_pages=0)
    with engine(what="joining labels and embeddings") as connection:
        target, counts = load_labels(connection, labels, source.layout.id_type, rule)
        _join(connection, source, features, counts)
        return read_table(connection, source, target, features, config.max_rows), counts


def _join(
    connection: duckdb.DuckDBPyConnection, source: Source, features: Features, counts: dict[str, Any]
) -> None:
    load_positions(connection, source)
    load_scores(connection, source, features.scores)
    counts |= join_labels(connection, source, features.scores, described(counts))
    logger.info("%s", described(counts))
    logger.info(
        "%d rows to learn from and measure on; left out: %d of keys that are not in the scores, %d without "
        "an embedding",
        counts["usable"],
        counts["unknown_key"],
        counts["without_embedding"],
    )


def _about(config: KpiConfig, source: Source, counts: dict[str, Any]) -> dict[str, Any]:
    """What does not decide an answer."""
    return {
        "config": as_plain(config),
        "snapshot": source.snapshot,
        "labels": counts,
        "packages": versions(["pix2score", "lightgbm", "scipy", "numpy"]),
    }
