"""align: a line for each source that brings its labels onto the scale of a frozen model."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from pix2score.align.answers import answered_rows, check_column
from pix2score.align.config import AlignConfig
from pix2score.align.lines import Fitted, Line, Rows, fit, pooled
from pix2score.cli.flags import as_plain
from pix2score.cli.summary import recorded
from pix2score.cli.tables import aligned
from pix2score.cluster.session import session
from pix2score.dataset.card import PreparedDataset, check_heads, open_dataset
from pix2score.errors import ConfigError, DataError
from pix2score.heads.spec import HeadSpec
from pix2score.metrics.intervals import MIN_LABELLED, Interval
from pix2score.metrics.kinds import numbers_of
from pix2score.model.card import ModelCard, load_card
from pix2score.storage.folder import Folder
from pix2score.summaries import AlignSummary

logger = logging.getLogger(__name__)


def align(config: AlignConfig) -> AlignSummary:
    """Write align.json and align.toml to ``config.out``; return each source's line and numbers.

    Raises ``ConfigError`` for a head without a number or a reference that is no source; ``DataError`` where
    the dataset's rows have no source, or a source's labels give no line.
    """
    card, dataset, out = load_card(config.model), open_dataset(config.data), Folder(config.out)
    head = _head(config, card)
    check_heads(config.model, card.heads, dataset)
    check_column(dataset, config.by)
    with (
        session(gpu_wait_s=config.gpu_wait_s) as offer,
        recorded(out, "summary.json", {"job": "align", "out": out.uri}) as summary,
    ):
        use_gpu = offer.wants_gpu(config.device)
        sources = answered_rows(
            config.model, card, dataset, head, config.splits, offer, column=config.by, use_gpu=use_gpu
        )
        found = _fitted(config, head, sources)
        moved = _moved_before(dataset, head)
        summary.update(_facts(config, card, dataset, sources, found, moved))
        _say(config, sources, found, moved)
        out.publish("align.json", json.dumps(summary, indent=1).encode(), replace=True)
        out.publish("align.toml", _toml(config, head, found, moved).encode(), replace=True)
    return cast("AlignSummary", summary)


def _head(config: AlignConfig, card: ModelCard) -> HeadSpec:
    heads = {head.name: head for head in card.heads}
    numbers = [name for name, head in heads.items() if numbers_of(head).has_number(head)]
    if config.head not in numbers:
        what = f"is of kind {heads[config.head].kind}" if config.head in heads else "is not known"
        raise ConfigError(
            f"head {config.head!r} of {config.model} {what}; heads whose answer is a number in the label's "
            f"unit: {', '.join(numbers) or 'none'}"
        )
    return heads[config.head]


def _fitted(config: AlignConfig, head: HeadSpec, sources: Mapping[str, Rows]) -> dict[str, Fitted]:
    names = ", ".join(sources)
    if not sources:
        raise DataError(f"no row of split {config.split} has both a source and a label of head {head.name}")
    if config.reference is not None and config.reference not in sources:
        raise ConfigError(
            f"reference {config.reference!r}: no labelled row of split {config.split} is of that source "
            f"(sources: {names})"
        )
    for name, rows in sources.items():
        if len(rows) < MIN_LABELLED:
            logger.warning(
                "source %s: only %d labelled images; its line is unreliable, see its interval",
                *(name, len(rows)),
            )
    try:
        return fit(sources, config.method, config.reference)
    except ValueError as exc:
        (name,) = exc.args
        raise DataError(
            f"source {name!r} ({len(sources[name])} labelled images of split {config.split}) gives no line: "
            "its labels or the answers to its pictures are all alike, or answers fall where labels rise"
        ) from None


def _moved_before(dataset: PreparedDataset, head: HeadSpec) -> dict[str, Line]:
    """Source -> the line that prepare moved its labels along already."""
    found = {}
    for source, table in dataset.card["config"].get("sources", {}).items():
        line = table.get("relabel", {}).get(head.name)
        if line is not None:
            found[source] = Line(*map(float, line))
    return found


def _of_catalog(found: Mapping[str, Fitted], moved: Mapping[str, Line]) -> dict[str, Line]:
    """Lines of the labels as the catalog has them."""
    return {
        name: fitted.line.after(moved[name]) if name in moved else fitted.line
        for name, fitted in found.items()
    }


def _facts(
    config: AlignConfig,
    card: ModelCard,
    dataset: PreparedDataset,
    sources: Mapping[str, Rows],
    found: Mapping[str, Fitted],
    moved: Mapping[str, Line],
) -> dict[str, Any]:
    lines = _of_catalog(found, moved)
    identity = dict.fromkeys(found, Line(1.0, 0.0))
    before, after = (pooled(sources, of) for of in (identity, {n: f.line for n, f in found.items()}))
    return {
        "head": config.head,
        "model_version": card.version,
        "dataset_id": dataset.id,
        "method": config.method,
        "reference": config.reference,
        "split": config.split,
        "sources": {
            name: {
                "k": lines[name].k,
                "b": lines[name].b,
                "k_interval": fitted.k_interval,
                "b_interval": fitted.b_interval,
                "labelled": fitted.num_rows,
                "groups": fitted.num_groups,
                "mse_before": fitted.mse_before,
                "mse_after": fitted.mse_after,
                "mse_constant": fitted.mse_constant,
                "pearson": fitted.pearson,
            }
            for name, fitted in found.items()
        },
        "all": {
            "mse_before": before[0],
            "mse_after": after[0],
            "pearson_before": before[1],
            "pearson_after": after[1],
        },
        "config": as_plain(config),
    }


def _say(
    config: AlignConfig,
    sources: Mapping[str, Rows],
    found: Mapping[str, Fitted],
    moved: Mapping[str, Line],
) -> None:
    head = [config.by, "images", "k", "95 %", "b", "95 %", "pearson", "mse before", "after", "constant"]
    rows = [
        [
            name,
            str(f.num_rows),
            *(f"{f.line.k:.4f}", _ends(f.k_interval), f"{f.line.b:+.4f}", _ends(f.b_interval)),
            "-" if f.pearson is None else f"{f.pearson:.3f}",
            *(f"{value:.4f}" for value in (f.mse_before, f.mse_after, f.mse_constant)),
        ]
        for name, f in found.items()
    ]
    onto = f"the labels of {config.reference}" if config.reference else "the answers"
    logger.info("labels onto the scale of %s, by %s:\n%s", onto, config.method, aligned([head, *rows]))
    if config.reference is None:
        logger.warning(
            "the answers to all these pictures have a deviation of %.4g, less than labels have by what the "
            "model does not know: give --reference SOURCE, the one that it learnt from, to undo that",
            np.concatenate([rows.said for rows in sources.values()]).std(),
        )
    for name in moved.keys() & sources.keys():
        logger.info(
            "source %s: prepare moved its labels already; align.toml has both lines in one, for the labels "
            "as they stand in the catalog",
            name,
        )


def _ends(found: Interval | None) -> str:
    return "-" if found is None else f"{found.low:.3f}..{found.high:.3f}"


def _toml(config: AlignConfig, head: HeadSpec, found: Mapping[str, Fitted], moved: Mapping[str, Line]) -> str:
    lines = [f"# jobs.align of {config.model}, by {config.method}: for the --config of jobs.prepare"]
    mark = ""
    if head.label_bounds is None:
        mark = "# "
        lines.append(f"# labels of kind {head.kind} are no single numbers: a head of kind value takes these")
    for name, line in _of_catalog(found, moved).items():
        if name != config.reference:
            lines += [
                f"\n{mark}[sources.{json.dumps(name)}]",
                f"{mark}relabel = {{ {head.name} = [{line.k!r}, {line.b!r}] }}",
            ]
    return "\n".join(lines) + "\n"
