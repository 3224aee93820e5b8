"""What the report of an evaluation says of all heads side by side.

By the values of a column, on images altered more and more, and how heads go with one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pix2score.heads.spec import HeadSpec
from pix2score.metrics.correlation import Correlations, Matrix
from pix2score.metrics.intervals import Interval
from pix2score.metrics.kinds import numbers_of
from pix2score.metrics.parts import MIN_PART, ByColumn, Part
from pix2score.metrics.perturbed import AtStrength, HeadPerturbed, Perturbed
from pix2score.metrics.verdict import HeadVerdict
from pix2score.report import interval_charts
from pix2score.report.evaluated_head import interval_text
from pix2score.report.page import Chart, Line, Section, TextTable, number

FEW = "\N{NO-BREAK SPACE}*"
"""Mark of a number of few images."""
SERIES = 3
"""Heads in one picture: the page has as many colours."""
SHORT = {
    "share_yes": "share of yes",
    "ap": "AP",
    "map": "mAP",
    "mae": "MAE",
    "macro_recall": "macro recall",
    "accuracy_at_threshold": "at the threshold",
    "best_threshold": "best threshold",
    "balanced_accuracy_at_best_threshold": "balanced accuracy there",
    "mae_bins": "MAE, bins",
    "nll": "NLL",
    "ece": "ECE",
    "mse": "MSE",
}
"""Numbers as the head of a narrow column has them."""
OF_NUMBER = {
    "jpeg": "quality of JPEG",
    "blur": "blur, standard deviation in px",
    "resize": "factor of resizing down and up",
    "noise": "noise, standard deviation of 0..1",
}

UNALTERED = {"blur": 0.0, "resize": 1.0, "noise": 0.0}
"""Strengths that leave an image as it is: where curves begin."""


def by_section(column: ByColumn, heads: Sequence[HeadSpec], whole: Mapping[str, HeadVerdict]) -> Section:
    """A table and a picture for each head: its numbers for each value of a column, beside all rows."""
    note = f"{column.note} {FEW.strip()} fewer than {MIN_PART} labelled images: no interval, and unreliable."
    known = [head for head in heads if whole[head.name].num_labelled]
    return Section(
        title=f"By {column.column}",
        lines=[Line(note, "note")],
        tables=[_by_table(head, whole[head.name], column.parts) for head in known],
        charts=[chart for head in known for chart in _by_chart(head, whole[head.name], column.parts)],
    )


def _by_table(head: HeadSpec, whole: HeadVerdict, parts: Sequence[Part]) -> TextTable:
    verdicts = [("all", whole), *((part.value, part.metrics[head.name]) for part in parts)]
    names = _shown(head, [_known(verdict) for _, verdict in verdicts])
    rows = [_by_row(value, verdict, whole.main, names) for value, verdict in verdicts]
    note = ""
    if "best_threshold" in names:
        note = (
            "Best threshold: of best balanced accuracy on the very images of its row, so what is reached "
            "there is a little flattering. At the threshold: accuracy at that of the model."
        )
    header = [head.name, "images", whole.main, *(SHORT.get(name, name) for name in names)]
    return TextTable(header, rows, note, stacks=True)


def _by_row(value: str, verdict: HeadVerdict, main: str, names: Sequence[str]) -> list[str]:
    if not verdict.num_labelled:
        return [value, "0", *["-"] * (1 + len(names))]
    known, mark = _known(verdict), "" if verdict.reliable else FEW
    first = f"{number(known.get(main))}{mark}{interval_text(verdict, main)}"
    return [value, str(verdict.num_labelled), first, *(number(known.get(name)) for name in names)]


def _shown(head: HeadSpec, rows: Sequence[Mapping[str, float | None]]) -> list[str]:
    """Numbers beside the main one that any row has."""
    names = numbers_of(head).part_summary
    return [name for name in names if any(known.get(name) is not None for known in rows)]


def _known(verdict: HeadVerdict) -> dict[str, float | None]:
    return {**verdict.numbers, **verdict.notes}


def _by_chart(head: HeadSpec, whole: HeadVerdict, parts: Sequence[Part]) -> Iterator[Chart]:
    main = whole.main
    verdicts = [(part.value, part.metrics[head.name]) for part in parts]
    points = [
        interval_charts.NamedPoint(value, found, verdict.interval.get(main))
        for value, verdict in verdicts
        if (found := verdict.numbers.get(main)) is not None
    ]
    if points:
        caption = f"{head.name}: {main} for each value, with its 95 % interval. Dashed: all rows."
        yield Chart(interval_charts.named_points(points, whole.numbers.get(main), main), caption)


def perturbed_section(perturbed: Perturbed, heads: Sequence[HeadSpec]) -> Section:
    """A table for each head and a picture for each way to alter images."""
    known = [head for head in heads if perturbed.heads[head.name].num_labelled]
    groups = [known[i : i + SERIES] for i in range(0, len(known), SERIES)]
    ways = list(perturbed.heads[heads[0].name].altered) if heads else []
    text = (
        f"{perturbed.num_rows} images of the split, altered at their own size before the model's resize. "
        "Brackets: 95 % intervals over redrawn groups, of the difference on the same groups."
    )
    return Section(
        title="On images altered more and more",
        lines=[Line(text, "note")],
        tables=[_perturbed_table(head, perturbed.heads[head.name]) for head in known],
        charts=[chart for way in ways for some in groups for chart in _curve(way, some, perturbed)],
    )


def _perturbed_table(head: HeadSpec, found: HeadPerturbed) -> TextTable:
    names = _shown(head, [found.plain.numbers])
    rows = [_perturbed_row("as they are", found.plain, found.main, names)]
    for way, strengths in found.altered.items():
        rows += [_perturbed_row(f"{way} {at.strength:.3g}", at, found.main, names) for at in strengths]
    header = [head.name, found.main, "difference", "mean |Δ probability|"]
    return TextTable([*header, *(SHORT.get(name, name) for name in names)], rows, stacks=True)


def _perturbed_row(title: str, at: AtStrength, main: str, names: Sequence[str]) -> list[str]:
    return [
        title,
        f"{number(at.numbers.get(main))}{_brackets(at.interval)}",
        f"{number(at.difference)}{_brackets(at.difference_interval)}",
        number(at.change["mean_prob_change"], 4) if at.change else "-",
        *(number(at.numbers.get(name)) for name in names),
    ]


def _brackets(found: Interval | None) -> str:
    return f" [{number(found.low)},\N{NO-BREAK SPACE}{number(found.high)}]" if found else ""


def _curve(way: str, heads: Sequence[HeadSpec], perturbed: Perturbed) -> Iterator[Chart]:
    curves, plain = {}, {}
    for head in heads:
        found = perturbed.heads[head.name]
        name = f"{head.name}, {found.main}"
        start = [replace(found.plain, strength=UNALTERED[way])] if way in UNALTERED else []
        strengths = [*start, *found.altered[way]]
        points = [point for at in strengths if (point := _point(at, found.main))]
        if points and (before := found.plain.numbers.get(found.main)) is not None:
            curves[name], plain[name] = points, before
    if curves:
        along = next(iter(curves.values()))
        falls = along[0].x > along[-1].x
        svg = interval_charts.curves(curves, plain, OF_NUMBER.get(way, way), falls=falls)
        yield Chart(svg, "Further right images are altered more. Dashed: the same images as they are.")


def _point(at: AtStrength, main: str) -> interval_charts.CurvePoint | None:
    value = at.numbers.get(main)
    if value is None or at.strength is None:
        return None
    return interval_charts.CurvePoint(at.strength, value, at.interval)


def _correlation_charts(found: Correlations) -> list[Chart]:
    caption = f"Scores, of {_images(found.answers)} images."
    drawn = [Chart(interval_charts.heat(found.heads, found.answers.spearman), caption)]
    if found.labels:
        caption = f"Labels, where images have both: {_images(found.labels)}."
        drawn.append(Chart(interval_charts.heat(found.heads, found.labels.spearman), caption))
    return drawn


def correlation_section(found: Correlations) -> Section:
    """Whether heads say the same: what readers ask of several scores first."""
    text = (
        "Rank correlation (Spearman) of each two heads: 1 is the same order, 0 none, -1 the reverse. Where "
        "scores go together far more than labels do, the heads have learnt one thing."
    )
    return Section(
        title="How heads go together", lines=[Line(text, "note")], charts=_correlation_charts(found)
    )


def _images(matrix: Matrix) -> str:
    """Of pairs that have any."""
    counts = [n for i, line in enumerate(matrix.num_rows) for n in line[:i] if n] or [0]
    return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
