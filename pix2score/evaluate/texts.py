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
from pix2score.metrics.perturbed import AtStrength, HeadPerturbed, Perturbed
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
    """A table for each head: the main number of each value with its interval, beside that of all rows."""
    return "\n\n".join(
        _head_by(head, [("all", whole[head.name]), *((p.value, p.metrics[head.name]) for p in by.parts)])
        for head in heads
    )


def _head_by(head: HeadSpec, verdicts: Sequence[tuple[str, HeadVerdict]]) -> str:
    names = numbers_of(head).part_summary
    known = [{**verdict.numbers, **verdict.notes} for _, verdict in verdicts]
    shown = [name for name in names if any(numbers.get(name) is not None for numbers in known)]
    rows = [[head.name, "images", main_metric(head), "95 %", *shown]]
    for (value, verdict), numbers in zip(verdicts, known, strict=True):
        is_few = verdict.num_labelled and not verdict.reliable
        images = f"{verdict.num_labelled}" + (" (few)" if is_few else "")
        interval = _interval(verdict.interval.get(main_metric(head)))
        cells = [_number(numbers.get(name)) for name in (main_metric(head), *shown)]
        rows.append([value, images, cells[0], interval, *cells[1:]])
    return aligned(rows)


def perturbed_text(heads: Sequence[HeadSpec], perturbed: Perturbed) -> str:
    """A table for each head: its main number at each strength, and the difference to images as they are."""
    return "\n\n".join(_head_perturbed(head, perturbed.heads[head.name]) for head in heads)


def _head_perturbed(head: HeadSpec, found: HeadPerturbed) -> str:
    shown = [name for name in numbers_of(head).part_summary if name in found.plain.numbers]
    header = [head.name, found.main, "95 %", "difference", "95 %, paired", "mean |Δ probability|", *shown]
    rows = [_strength("as they are", found.plain, found.main, shown)]
    for way, strengths in found.altered.items():
        rows += [_strength(f"{way} {at.strength:.3g}", at, found.main, shown) for at in strengths]
    return aligned([header, *rows])


def _strength(title: str, at: AtStrength, main: str, shown: Sequence[str]) -> list[str]:
    return [
        title,
        _number(at.numbers.get(main)),
        _interval(at.interval),
        _number(at.difference),
        _interval(at.difference_interval),
        f"{at.change['mean_prob_change']:.4f}" if at.change else "-",
        *(_number(at.numbers.get(name)) for name in shown),
    ]


def correlations_text(found: Correlations) -> str:
    """The matrix of answers."""
    lines = zip(found.heads, found.answers.spearman, strict=True)
    return aligned([["", *found.heads], *([name, *map(_number, line)] for name, line in lines)])


def _interval(found: Interval | None) -> str:
    return f"[{found.low:.3f}, {found.high:.3f}]" if found else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
