"""What an evaluation says in a terminal: aligned tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pix2score.cli.tables import aligned
from pix2score.heads.spec import HeadSpec
from pix2score.metrics.correlation import Correlations
from pix2score.metrics.intervals import Interval
from pix2score.metrics.kinds import main_metric, numbers_of
from pix2score.metrics.parts import ByColumn
from pix2score.metrics.perturbed import Perturbed
from pix2score.metrics.verdict import HeadVerdict


def table_text(heads: Sequence[HeadSpec], metrics: dict[str, dict[str, Any]]) -> str:
    """Per head its main number, and others beside what the best constant reaches, for a terminal."""
    rows = [["head", "images", "main", "in brackets: the best constant"]]
    for head in heads:
        m = metrics[head.name]
        if not m["num_labelled"]:
            rows.append([head.name, "0", "no label"])
            continue
        others = [
            f"{name} {_number(m[name])} ({_number(m['constant'].get(name))})"
            for name in numbers_of(head).summary
        ]
        rows.append(
            [
                head.name,
                str(m["num_labelled"]),
                f"{main_metric(head)} {_number(m[main_metric(head)])}",
                *others,
            ]
        )
    return aligned(rows)


def by_text(heads: Sequence[HeadSpec], whole: Mapping[str, HeadVerdict], by: ByColumn) -> str:
    """Per head and value the main number with its interval, beside that of all rows."""
    rows = [["value", "head", "images", "main", "95 %", "others"]]
    for head in heads:
        found = [("all", whole[head.name]), *((part.value, part.metrics[head.name]) for part in by.parts)]
        rows += [_part_row(value, head, verdict) for value, verdict in found]
    return aligned(rows)


def _part_row(value: str, head: HeadSpec, verdict: HeadVerdict) -> list[str]:
    if not verdict.num_labelled:
        return [value, head.name, "0"]
    main, known = main_metric(head), {**verdict.numbers, **verdict.notes}
    names = [name for name in numbers_of(head).part_summary if known.get(name) is not None]
    return [
        value,
        head.name,
        f"{verdict.num_labelled}" + ("" if verdict.reliable else " (few)"),
        f"{main} {_number(known.get(main))}",
        _interval(verdict.interval.get(main)),
        ", ".join(f"{name} {_number(known[name])}" for name in names),
    ]


def perturbed_text(heads: Sequence[HeadSpec], perturbed: Perturbed) -> str:
    """Per head the main number at each strength, and its paired difference to the same images unaltered."""
    rows = [["images", "head", "main", "95 %", "difference", "95 %, paired", "mean |Δ probability|"]]
    for head in heads:
        found = perturbed.heads[head.name]
        main = found.plain.numbers.get(found.main)
        as_they_are = f"{found.main} {_number(main)}"
        rows.append(["as they are", head.name, as_they_are, _interval(found.plain.interval)])
        for name, strengths in found.altered.items():
            for at in strengths:
                assert at.change is not None and at.strength is not None, "only of images as they are"
                rows.append(
                    [
                        f"{name} {at.strength:g}",
                        head.name,
                        f"{found.main} {_number(at.numbers.get(found.main))}",
                        _interval(at.interval),
                        _number(at.difference),
                        _interval(at.difference_interval),
                        f"{at.change['mean_prob_change']:.4f}",
                    ]
                )
    return aligned(rows)


def correlations_text(found: Correlations) -> str:
    """The matrix of answers."""
    lines = zip(found.heads, found.answers.spearman, strict=True)
    return aligned([["", *found.heads], *([name, *map(_number, line)] for name, line in lines)])


def _interval(found: Interval | None) -> str:
    return f"[{found.low:.3f}, {found.high:.3f}]" if found else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
