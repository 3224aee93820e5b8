"""The report of an evaluation: verdicts in sentences, the numbers of all heads, and a section for each."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pix2score.heads.spec import HeadSpec
from pix2score.metrics.comparison import HeadComparison
from pix2score.metrics.findings import Findings
from pix2score.metrics.kinds import numbers_of
from pix2score.metrics.verdict import HeadVerdict
from pix2score.report.evaluated_head import head_section, interval_text
from pix2score.report.evaluated_more import by_section, correlation_section, perturbed_section
from pix2score.report.page import Line, Section, TextTable, number, page


def evaluation_page(findings: Findings, heads: Sequence[HeadSpec], sampled: pa.Table | None) -> bytes:
    """Content of report.html; ``sampled`` rows carry thumbnails."""
    metrics = findings.metrics
    facts = {
        "model": findings.model_version,
        "dataset": findings.dataset_id,
        "split": findings.split,
        "labelled images": " / ".join(str(metrics[head.name].num_labelled) for head in heads),
    }
    sections = [_overview(findings, heads), *_comparison(findings)]
    sections += [by_section(column, heads, metrics) for column in findings.by]
    sections += [perturbed_section(findings.perturbed, heads)] if findings.perturbed else []
    sections += [correlation_section(findings.correlations)] if findings.correlations else []
    sections += [
        head_section(head, metrics[head.name], findings.details[head.name], sampled) for head in heads
    ]
    lead = [
        "How well the model answers images of groups that it never saw; a group is all that has to stay "
        "together, such as the images of one artist. Brackets are 95 % intervals over redrawn groups."
    ]
    num_sampled = sampled.num_rows if sampled else 0
    foot = f"Pictures are chosen from a random sample of {num_sampled} images of the split."
    return page(f"Evaluation of model {findings.model_version}", lead, facts, sections, foot)


def _overview(findings: Findings, heads: Sequence[HeadSpec]) -> Section:
    header = ["head", "main number", "ridge", "others (of the best constant)"]
    note = (
        "Main number: 1 is perfect; 0 is chance, 0.5 for AUC and pair accuracy. "
        "Ridge: a regression on colours and edges. "
        "In brackets in the last column: what the best constant answer reaches."
    )
    rows = [_overview_row(head, findings.metrics[head.name]) for head in heads]
    lines = [_sentence(head, findings.metrics[head.name]) for head in heads]
    return Section(title="In short", lines=lines, tables=[TextTable(header, rows, note, prose=True)])


def _overview_row(head: HeadSpec, verdict: HeadVerdict) -> list[str]:
    if not verdict.num_labelled:
        return [f"{head.name}\n0 images", *["-"] * 3]
    numbers, main = verdict.numbers, verdict.main
    others = [
        f"{name} {number(numbers.get(name))} ({number(verdict.constant.get(name))})"
        for name in numbers_of(head).summary
    ]
    return [
        f"{head.name}\n{verdict.num_labelled} images",
        f"{main} {number(numbers[main])}{interval_text(verdict, main)}",
        number(verdict.ridge.get(main)),
        "\n".join(others),
    ]


def _sentence(head: HeadSpec, verdict: HeadVerdict) -> Line:
    name = head.name
    if not verdict.num_labelled:
        return Line(f"{name}: no labelled image in this split.", "bad")
    if not verdict.reliable:
        text = f"{name}: only {verdict.num_labelled} labelled images. These numbers are unreliable."
        return Line(text, "bad")
    knows, mood = _against_constant(verdict, numbers_of(head).loss)
    against, ridge_mood = _against_ridge(verdict)
    moods = {mood, ridge_mood}
    return Line(f"{name}: {knows}{against}.", "bad" if "bad" in moods else "" if "" in moods else mood)


def _against_constant(verdict: HeadVerdict, loss: str) -> tuple[str, str]:
    """Words and their mood."""
    found, interval, constant = verdict.numbers[loss], verdict.interval[loss], verdict.constant[loss]
    assert found is not None and interval and constant is not None, "every labelled image has a loss"
    if interval.high < constant:
        return f"its answers ({loss}) are really better than the constant answer", "good"
    if found < constant:
        return (
            f"its answers ({loss}) are better than the constant answer, but by no more than chance may do",
            "",
        )
    return f"its answers ({loss}) are no better than the constant answer", "bad"


def _against_ridge(verdict: HeadVerdict) -> tuple[str, str]:
    """Words and their mood."""
    main = verdict.main
    ridge, interval = verdict.ridge.get(main), verdict.interval.get(main)
    if ridge is None or interval is None:
        return "", "good"  # nothing to say against it
    if interval.low > ridge:
        return f"; its {main} is above the ridge regression's", "good"
    if interval.high < ridge:
        return f"; its {main} is below the ridge regression's", "bad"
    return f"; its {main} is not clearly apart from the ridge regression's", ""


def _comparison(findings: Findings) -> list[Section]:
    if not findings.compared_with:
        return []
    text = (
        "The candidate is really better in a head at least and really worse in none."
        if findings.is_better
        else "The candidate is not really better."
    )
    rows = [row for name, head in findings.comparison.items() for row in _comparison_rows(name, head)]
    header = ["head, number", "this model", "the other", "difference", "95 %, paired", "verdict"]
    return [
        Section(
            title=f"Against model {findings.compared_with}",
            lines=[Line(text, "good" if findings.is_better else "bad")],
            tables=[TextTable(header, rows)],
        )
    ]


def _comparison_rows(name: str, head: HeadComparison) -> list[list[str]]:
    if not head.differences:
        return [[name, "-", "-", "-", "-", head.verdict]]
    rows = []
    for measure, found in head.differences.items():
        low_high = found["interval"]
        interval = f"[{low_high.low:.3f}, {low_high.high:.3f}]" if low_high else "-"
        cells = [number(found["candidate"]), number(found["other"]), number(found["difference"]), interval]
        rows.append([f"{name}, {measure}", *cells, head.verdict if measure == head.main else ""])
    return rows
