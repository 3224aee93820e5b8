"""What an evaluation's report says: verdicts in sentences, numbers beside their references, charts, and
pictures from the sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pix2score.heads.spec import HeadSpec
from pix2score.report import charts
from pix2score.report.page import (
    Chart,
    Gallery,
    Line,
    Picture,
    Section,
    Table,
    encoded,
    number,
    page,
    short_labels,
)

NUM_PICTURES = 6
ALTERED_NAMES = {
    "jpeg_75": "saved again as JPEG, quality 75",
    "crop_top_left_5": "5 % cut off at left and top",
    "crop_bottom_right_5": "5 % cut off at right and bottom",
    "resize_75": "shrunk to 75 %",
    "original": "the original instead of the prepared image",
}
PARITY_BOUND = 0.01
ROWS = (
    ("spearman", "Spearman, expected quantile with the raw label", ""),
    ("kappa", "Quadratic weighted kappa", ""),
    ("mae_bins", "Mean error of the expectation, bins", "lower"),
    ("accuracy", "Accuracy", ""),
    ("within_1", "At most one bin off", ""),
    ("macro_recall", "Macro recall", ""),
    ("nll", "NLL", "lower"),
    ("rps", "RPS", "lower"),
    ("ece", "Calibration error (ECE)", "lower"),
    ("auc_top20", "AUC of the top 20 %", ""),
    ("lift_top20", "Lift of the top 20 %", ""),
    ("auc_top5", "AUC of the top 5 %", ""),
    ("lift_top5", "Lift of the top 5 %", ""),
)


def evaluation_page(
    summary: Mapping[str, Any],
    details: Mapping[str, Mapping[str, Any]],
    heads: Sequence[HeadSpec],
    sampled: pa.Table | None,
) -> bytes:
    """report.html of an evaluation: ``summary`` and ``details`` as in metrics.json, ``sampled`` rows with
    thumbnails."""
    metrics = summary["metrics"]
    facts = {
        "model": summary["model_version"],
        "dataset": summary["dataset_id"],
        "split": summary["split"],
        "labelled images": " / ".join(str(metrics[head.name]["num_labelled"]) for head in heads),
    }
    sections = [_overview(metrics, heads), *_comparison(summary)]
    sections += [_head(head, metrics[head.name], details[head.name], sampled) for head in heads]
    lead = [
        "How well the model answers images by artists (groups) that it never saw. Brackets are 95 % "
        "intervals over redrawn groups."
    ]
    foot = (
        f"Pictures are chosen from a random sample of {sampled.num_rows if sampled else 0} images of the "
        "split."
    )
    return page(f"Evaluation of model {summary['model_version']}", lead, facts, sections, foot)


def _overview(metrics: Mapping[str, Any], heads: Sequence[HeadSpec]) -> Section:
    header = [
        "head",
        "images",
        "main number",
        "ridge",
        "NLL (prior)",
        "error in bins (median bin)",
        "accuracy (majority)",
        "top 20 % AUC",
    ]
    lines = [line for head in heads for line in _sentences(head.name, metrics[head.name])]
    rows = [_overview_row(head.name, metrics[head.name]) for head in heads]
    note = (
        "Main number: Spearman for counts, kappa for levels; 1 is perfect, 0 is chance. Ridge: a "
        "regression on colours and edges. "
    )
    note += "In brackets in the other columns: what the best constant answer reaches."
    return Section(title="In short", lines=lines, tables=[Table(header, rows, note)])


def _overview_row(name: str, m: Mapping[str, Any]) -> list[str]:
    if not m["num_labelled"]:
        return [name, "0", *["-"] * 6]
    return [
        name,
        str(m["num_labelled"]),
        f"{m['main']} {number(m[m['main']])}{_interval(m, m['main'])}",
        number(m["ridge"].get(m["main"])),
        f"{number(m['nll'])} ({number(m['constant']['nll'])})",
        f"{number(m['mae_bins'], 2)} ({number(m['constant']['mae_bins'], 2)})",
        f"{number(m['accuracy'])} ({number(m['constant']['accuracy'])})",
        number(m["auc_top20"]),
    ]


def _interval(m: Mapping[str, Any], name: str) -> str:
    found = m["interval"].get(name)
    return f" [{found[0]:.3f}, {found[1]:.3f}]" if found else ""


def _sentences(name: str, m: Mapping[str, Any]) -> list[Line]:
    if not m["num_labelled"]:
        return [Line(f"{name}: no labelled image in this split.", "bad")]
    if not m["reliable"]:
        return [
            Line(f"{name}: only {m['num_labelled']} labelled images. These numbers are unreliable.", "bad")
        ]
    if m["interval"]["nll"][1] < m["constant"]["nll"]:
        knows, mood = "its probabilities are really better than the constant answer", "good"
    elif m["nll"] < m["constant"]["nll"]:
        knows, mood = (
            "its probabilities are better than the constant answer, but by no more than chance may do",
            "",
        )
    else:
        knows, mood = "its probabilities are no better than the constant answer", "bad"
    against, ridge_mood = _against_ridge(m)
    moods = {mood, ridge_mood}
    return [Line(f"{name}: {knows}{against}.", "bad" if "bad" in moods else "" if "" in moods else mood)]


def _against_ridge(m: Mapping[str, Any]) -> tuple[str, str]:
    ridge, interval = m["ridge"].get(m["main"]), m["interval"].get(m["main"])
    if ridge is None or interval is None:
        return "", "good"  # nothing to say against it
    if interval[0] > ridge:
        return f"; its {m['main']} is above the ridge regression's", "good"
    if interval[1] < ridge:
        return f"; its {m['main']} is below the ridge regression's", "bad"
    return f"; its {m['main']} is not clearly apart from the ridge regression's", ""


def _comparison(summary: Mapping[str, Any]) -> list[Section]:
    if "comparison" not in summary:
        return []
    rows = []
    for name, head in summary["comparison"].items():
        for measure in (m for m in (head.get("main"), "nll") if m in head):
            found = head[measure]
            interval = "[{:.3f}, {:.3f}]".format(*found["interval"]) if found["interval"] else "-"
            cells = [number(found[key]) for key in ("candidate", "other", "difference")]
            rows.append(
                [f"{name}, {measure}", *cells, interval, head["verdict"] if measure == head["main"] else ""]
            )
        if "main" not in head:
            rows.append([name, "-", "-", "-", "-", head["verdict"]])
    better = summary["is_better"]
    text = (
        "The candidate is really better in a head at least and really worse in none."
        if better
        else "The candidate is not really better."
    )
    table = Table(["head, number", "this model", "the other", "difference", "95 %, paired", "verdict"], rows)
    return [
        Section(
            title=f"Against model {summary['compared_with']}",
            lines=[Line(text, "good" if better else "bad")],
            tables=[table],
        )
    ]


def _head(
    head: HeadSpec, m: Mapping[str, Any], detail: Mapping[str, Any], sampled: pa.Table | None
) -> Section:
    if not m["num_labelled"]:
        return Section(title=head.name, lines=[Line("No labelled image in this split.", "bad")])
    labels = short_labels(head)
    drawn = [
        Chart(
            charts.score_against_label(
                detail["curve"], detail["scatter"], head.column, is_count=_is_count(head)
            ),
            "Raw label against score. Line: median of each tenth of the images; band: its middle half. A "
            "good head climbs.",
        ),
        Chart(
            charts.calibration(detail["reliability"]),
            "On the dashed line, a probability of 0.4 is right 4 times in 10.",
        ),
        Chart(
            charts.confusion(labels, detail["confusion"]),
            "Each row adds up to 1. A good head is dark along the diagonal.",
        ),
    ]
    return Section(
        title=head.name,
        lines=[
            Line(
                f"Temperature {m['temperature']:.2f}: calibration error "
                f"{number(m['ece_before_temperature'])} without it.",
                "note",
            )
        ],
        tables=[_numbers(m), _robustness(detail["altered"])],
        charts=drawn,
        galleries=_galleries(head, sampled, labels),
    )


def _is_count(head: HeadSpec) -> bool:
    return head.kind == "bins" and head.min_value >= 0


def _numbers(m: Mapping[str, Any]) -> Table:
    rows = []
    for name, title, better in ROWS:
        constant, ridge = (number(m[kind].get(name)) for kind in ("constant", "ridge"))
        rows.append([title + (" ↓" if better else ""), number(m[name]) + _interval(m, name), ridge, constant])
    return Table(
        ["", "model", "ridge", "constant"],
        rows,
        "↓: lower is better. Constant: the train split's shares, its median bin or its most frequent bin.",
    )


def _robustness(altered: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = [
        [
            title,
            str(c["images"]),
            number(c["mean_prob_change"], 4),
            number(c["mean_score_change"], 4),
            f"{c['same_bin']:.0%}",
        ]
        for name, title in ALTERED_NAMES.items()
        if (c := altered.get(name))
    ]
    note = "How far answers move when the same image comes otherwise."
    if original := altered.get("original"):
        verdict = "within" if original["mean_prob_change"] <= PARITY_BOUND else "ABOVE"
        note += (
            f" Prepared images stand for originals: {verdict} the bound of {PARITY_BOUND} on the mean "
            "change of probability."
        )
    return Table(["image", "images", "mean |Δ probability|", "mean |Δ score|", "same bin"], rows, note)


def _galleries(head: HeadSpec, sampled: pa.Table | None, labels: Sequence[str]) -> list[Gallery]:
    if sampled is None or not sampled.num_rows:
        return []
    from pix2score.storage.arrow import matrix

    probs = np.exp(matrix(sampled.column(f"{head.name}_log_probs_0")).astype(np.float64))
    truth = sampled.column(f"{head.name}_bin").to_numpy()
    score, expected = probs @ np.linspace(0, 1, head.num_bins), probs @ np.arange(head.num_bins)
    miss = np.where(truth >= 0, np.abs(expected - truth), -1)

    def gallery(title: str, order: Any, images: str = "thumbnail", note: str = "") -> Gallery:
        rows = order[:NUM_PICTURES].tolist()
        return Gallery(title, [_picture(sampled, row, labels, probs, truth, images) for row in rows], note)

    found = [
        gallery("Highest predicted", np.argsort(-score, kind="stable")),
        gallery("Lowest predicted", np.argsort(score, kind="stable")),
        gallery(
            "Largest misses",
            np.array([i for i in np.argsort(-miss, kind="stable") if miss[i] >= 0], dtype=np.int64),
        ),
    ]
    saliency = f"{head.name}_saliency"
    if saliency in sampled.column_names and sampled.column(saliency).null_count < sampled.num_rows:
        explained = np.flatnonzero(sampled.column(saliency).is_valid().to_numpy())
        found.append(
            gallery(
                "Where this head looks",
                explained,
                saliency,
                "Grad-CAM: bright places raise the score; dark ones do not.",
            )
        )
    return [g for g in found if g.pictures]


def _picture(
    sampled: pa.Table, row: int, labels: Sequence[str], probs: Any, truth: Any, images: str
) -> Picture:
    key = f"{sampled.column('illust_id')[row].as_py()} p{sampled.column('page')[row].as_py()}"
    best = int(probs[row].argmax())
    true = labels[int(truth[row])] if truth[row] >= 0 else "no label"
    return Picture(
        key,
        encoded(sampled.column(images)[row].as_py()),
        [f"said {labels[best]} ({probs[row, best]:.0%})", f"true {true}"],
    )
