"""The tables of a comparison: cells as text, for a terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence

from pix2score.cli.tables import aligned
from pix2score.cluster.progress import duration
from pix2score.compare.findings import ComparedRuns, Run
from pix2score.compare.numbers import HeadResult
from pix2score.metrics.intervals import Interval
from pix2score.report.page import number

COSTS = (
    *("backbone", "parameters, M", "GFLOPs an image", "training images/s", "time in steps", "epochs"),
    "peak GPU memory, MiB",
)
"""What a run costs: of its network, then of its training."""


def table_text(found: ComparedRuns) -> str:
    """Per head a table of runs and references, then what the runs cost, then what failed; for a terminal."""
    parts = [
        f"{head} ({num_images(found, head)} images)\n{aligned([head_header(found, head), *rows])}"
        for head in found.heads
        if (rows := head_rows(found, head))
    ]
    parts.append(f"what they cost, mean over seeds\n{aligned([['run', *COSTS], *cost_rows(found)])}")
    return "\n\n".join([*parts, *["\n".join(lines) for lines in [failure_lines(found)] if lines]])


def num_images(found: ComparedRuns, head: str) -> int:
    """Labelled images that the numbers of a head are of."""
    return next(iter(found.heads[head].values())).num_labelled


def head_header(found: ComparedRuns, head: str) -> list[str]:
    """Columns of ``head_rows``."""
    main = next(iter(found.heads[head].values())).main
    return ["run", main, "± seeds", "95 %", f"minus {found.runs[0].name}", "95 %, paired", "verdict", "loss"]


def head_rows(found: ComparedRuns, head: str) -> list[list[str]]:
    """A row for each run, in their order, then for each reference."""
    results = found.heads[head]
    rows = [
        [label(run), *_cells(results[run.name])] if run.name in results else [label(run), "failed"]
        for run in found.runs
    ]
    return rows + [[name, *_cells(results[name])] for name in found.references() if name in results]


def narrow_header(found: ComparedRuns, head: str) -> list[str]:
    """Columns of ``narrow_rows``."""
    full = head_header(found, head)
    return [full[0], full[1], full[4], full[7]]


def narrow_rows(found: ComparedRuns, head: str) -> list[list[str]]:
    """``head_rows`` in so few columns that a phone shows them whole."""
    rows = [[*row, *[""] * (8 - len(row))] for row in head_rows(found, head)]
    return [
        [name, _joined(mean, f"± {spread}" if spread not in ("", "-") else "", own), _joined(*against), loss]
        for name, mean, spread, own, *against, loss in rows
    ]


def _joined(*parts: str) -> str:
    """With breaks between the parts, not within an interval."""
    return " ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts if part)


def label(run: Run) -> str:
    """Its name, and how many of its seeds gave a model if not all did."""
    total = len(run.models) + len(run.failures)
    return run.name if not run.failures else f"{run.name} ({len(run.models)} of {total} seeds)"


def _cells(result: HeadResult) -> list[str]:
    difference = result.difference
    return [
        number(result.mean),
        number(result.deviation),
        interval_text(result.interval),
        *(
            [signed(difference.value), interval_text(difference.interval, signed=True), difference.verdict]
            if difference
            else ["", "", ""]
        ),
        number(result.loss),
    ]


def interval_text(found: Interval | None, *, signed: bool = False) -> str:
    """``[0.412, 0.498]``; empty without one."""
    if found is None:
        return ""
    low, high = (f"{end:+.3f}" if signed else f"{end:.3f}" for end in found)
    return f"[{low}, {high}]"


def signed(value: float) -> str:
    """With its sign."""
    return f"{value:+.3f}"


def cost_rows(found: ComparedRuns) -> list[list[str]]:
    """A row for each run: its name and ``COSTS``."""
    return [[run.name, *_costs(run)] for run in found.runs]


def _costs(run: Run) -> list[str]:
    cost = run.cost
    if cost is None:
        return [run.backbone, *["-"] * (len(COSTS) - 1)]
    rate, memory = cost.train_images_per_s, cost.peak_memory_mib
    return [
        run.backbone,
        f"{cost.parameters_m:.2f}",
        f"{cost.gflops:.3g}",
        "-" if rate is None else f"{rate:.0f}",
        duration(cost.train_seconds),
        f"{cost.epochs:.3g}",
        "-" if memory is None else f"{memory:.0f}",
    ]


def failure_lines(found: ComparedRuns) -> Sequence[str]:
    """One for each training that gave no model."""
    return [
        f"{run.name} seed {seed} failed: {why}" for run in found.runs for seed, why in run.failures.items()
    ]
