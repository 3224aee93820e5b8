"""The page of a comparison: verdicts, tables, numbers with their intervals, and learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pix2score.compare.findings import ComparedRuns
from pix2score.compare.numbers import HeadResult
from pix2score.compare.table import (
    COSTS,
    cost_rows,
    failure_lines,
    interval_text,
    narrow_header,
    narrow_rows,
    num_images,
    signed,
)
from pix2score.report.page import Chart, Line, Section, TextTable, page
from pix2score.report.run_charts import dots_with_intervals, learning_curves

NOTE = (
    "Main number: the mean over seeds, ± their standard deviation; more is better. Brackets: 95 %, the same "
    "models on redrawn groups of images; of a difference both runs on the same redrawn groups. Better and "
    "worse: that interval leaves out 0, and the difference is more than twice its standard error over seeds, "
    "if there are several. Loss: 1 is the best constant answer; less is better. Ridge: a regression on "
    "colours and outlines."
)
COST_NOTE = (
    "Means over seeds; memory is the most that a worker took, of GPUs alone. GFLOPs: 1e9 multiplications and "
    "additions of one picture forward, a multiply-add as two. Images/s and time are those of the training "
    "steps, all workers together, without validation and start-up."
)


def comparison_page(found: ComparedRuns, *, split: str, dataset_id: str) -> bytes:
    """Content of report.html."""
    facts = {
        "dataset": dataset_id,
        "split": split,
        "runs": str(len(found.runs)),
        "models": str(sum(len(run.models) for run in found.runs)),
    }
    failures = [Line(line, "bad") for line in failure_lines(found)]
    verdicts = [Line(line, mood) for line, mood in _verdicts(found)]
    short = Section(title="In short", lines=[*failures, *verdicts], charts=_losses(found))
    sections = [short, *(_head_section(found, head) for head in found.heads)]
    sections.append(Section(title="What they cost", tables=_costs(found)))
    lead = [
        "Every run trained on one dataset and measured on the same images, beside the first one, "
        f"{found.runs[0].name}."
    ]
    return page("Comparison of runs", lead, facts, sections, f"One model: {_evaluate(split)}.")


def _evaluate(split: str) -> str:
    return f"python -m jobs.evaluate --model NAME-seedK --data DATASET --out PLACE --split {split} says more"


def _verdicts(found: ComparedRuns) -> list[tuple[str, str]]:
    """A sentence with its mood for each run and head."""
    first, lines = found.runs[0].name, []
    for head, results in found.heads.items():
        for run in found.runs[1:]:
            difference = results[run.name].difference if run.name in results else None
            if difference is not None:
                by = f"{signed(difference.value)} {interval_text(difference.interval, signed=True)}".strip()
                mood = {"better": "good", "worse": "bad"}.get(difference.verdict, "")
                lines.append((f"{head}: {run.name} against {first}: {difference.verdict} ({by}).", mood))
    return lines


def _costs(found: ComparedRuns) -> list[TextTable]:
    """Two, each so narrow that a phone shows it whole: of the networks, and of their training."""
    rows = [["run", *COSTS], *cost_rows(found)]
    networks = [[run, parameters, flops, backbone] for run, backbone, parameters, flops, *_ in rows]
    trainings = [[run, *rest] for run, _, _, _, *rest in rows]
    return [
        TextTable(networks[0], networks[1:], prose=True),  # a backbone's long name wraps
        TextTable(trainings[0], trainings[1:], COST_NOTE),
    ]


def _head_section(found: ComparedRuns, head: str) -> Section:
    table = TextTable(narrow_header(found, head), narrow_rows(found, head), NOTE)
    return Section(
        title=f"{head} ({num_images(found, head)} images)",
        tables=[table],
        charts=[*_numbers(found, head), *_curves(found, head)],
    )


def _numbers(found: ComparedRuns, head: str) -> list[Chart]:
    results = {name: of for name, of in found.heads[head].items() if of.mean is not None}
    if not results:
        return []
    values = {name: of.mean for name, of in results.items() if of.mean is not None}
    intervals = {name: (of.interval.low, of.interval.high) for name, of in results.items() if of.interval}
    main = next(iter(results.values())).main
    names = [run.name for run in found.runs]
    drawn = dots_with_intervals(values, intervals, _seeds(results), names, f"{head} {main}")
    return [
        Chart(drawn, "Dot: mean over seeds; line: 95 % over redrawn groups of images; ticks: single seeds.")
    ]


def _seeds(results: dict[str, HeadResult]) -> list[dict[str, Any]]:
    return [
        {"run": name, "value": value}
        for name, of in results.items()
        for value in of.by_seed
        if value is not None and len(of.by_seed) > 1
    ]


def _losses(found: ComparedRuns) -> list[Chart]:
    points = _points(found, lambda entry: entry["val_loss"])
    caption = "Validation loss of each epoch; 1 is the constant answer. A line for each seed."
    return [Chart(_drawn(found, points, "validation loss"), caption)] if points else []


def _curves(found: ComparedRuns, head: str) -> list[Chart]:
    main = next(iter(found.heads[head].values())).main
    points = _points(found, lambda entry: entry["val"].get(head, {}).get(main))
    caption = f"{main} on the validation split after each epoch. A line for each seed."
    return [Chart(_drawn(found, points, f"{head} {main}"), caption)] if points else []


def _drawn(found: ComparedRuns, points: Sequence[dict[str, Any]], title: str) -> str:
    return learning_curves(points, [run.name for run in found.runs], title)


def _points(found: ComparedRuns, value_of: Any) -> list[dict[str, Any]]:
    return [
        {"run": run.name, "seed": seed, "epoch": entry["epoch"], "value": value}
        for run in found.runs
        for seed, history in run.histories().items()
        for entry in history
        if (value := value_of(entry)) is not None
    ]
