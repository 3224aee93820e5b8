"""What a night's report says: predictions beside those of the night before, failures, rate and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pix2score.catalog.keys import Key
from pix2score.heads.spec import HeadSpec
from pix2score.report import charts
from pix2score.report.drift import Drift, drift_lines
from pix2score.report.evaluated_more import correlation_section
from pix2score.report.night import NightStats
from pix2score.report.page import Chart, Gallery, Line, Picture, Section, TextTable, page
from pix2score.snapshots.snapshot import Snapshot


def night_page(
    snapshot: Snapshot,
    night: NightStats,
    before: NightStats | None,
    drift: Mapping[str, Drift],
    images: Mapping[Key, str],
    held: str = "",
) -> bytes:
    """Content of the report; ``images`` are thumbnails as the page holds them; ``held`` says why a night is
    not published."""
    manifest = snapshot.manifest
    plan = {**manifest.get("counts", {}), **manifest.get("plan", {})}
    rate = (manifest.get("account") or {}).get("images_per_s")
    facts = {
        "illustrations": f"{night.rows:,}",
        "failed": f"{night.failed.total():,} ({night.failed.total() / max(1, night.rows):.1%})",
        **({"pending": f"{night.pending:,} ({night.pending / night.rows:.1%})"} if night.pending else {}),
        **{
            name: f"{plan[name]:,}"
            for name in ("new", "changed", "stale", "retry", "waiting", "carried", "removed")
            if name in plan
        },
        **({"images/s": f"{rate:,.0f}"} if rate else {}),
        "model": manifest["model_version"],
        "preprocessing": manifest.get("preprocess_id", "-"),
    }
    against = f", compared with snapshot {manifest['parent']}" if before else ""
    lead = [
        f"NOT PUBLISHED: {held}"
        if held
        else f"Published {manifest.get('published_at', '-')} by run {manifest['run']}{against}."
    ]
    sections = [_drift(night, before, drift), _failures(night, before, images), *_rate(manifest)]
    if found := night.correlations():
        sections.append(correlation_section(found))
    sections += [_extremes(head, night, images) for head in night.heads if head.order_column]
    sections.append(_search(night, images))
    foot = f"Catalog: {manifest.get('catalog', {}).get('uri', '-')}"
    title = (
        f"Scores of run {manifest['run']}, not published" if held else f"Scores, snapshot {snapshot.number}"
    )
    return page(title, lead, facts, sections, foot)


def _shares(counts: npt.NDArray[np.int64]) -> list[float]:
    return [float(share) for share in counts / max(1, counts.sum())]


def _drift(night: NightStats, before: NightStats | None, drift: Mapping[str, Drift]) -> Section:
    drawn = []
    for head in night.heads:
        if head.name not in night.bins:
            continue
        series = {"all, this night": _shares(head.summarised(night.bins[head.name]))}
        if before and head.name in before.bins:
            series["all, night before"] = _shares(head.summarised(before.bins[head.name]))
        total, fresh = int(night.bins[head.name].sum()), int(night.fresh[head.name].sum())
        if 0 < fresh < total:
            series["scored this night"] = _shares(head.summarised(night.fresh[head.name]))
        caption = (
            f"{head.name}: share of images by what was predicted (of bins: where the score lies); {fresh:,} "
            f"of {total:,} scored this night."
        )
        drawn.append(Chart(charts.bars(head.histogram_labels(), series), caption))
    moved = [Line(text) for head in night.heads for text in _moved(head, night, before)]
    return Section(
        title="Predictions",
        lines=[*drift_lines(night, drift), *moved]
        or [Line("There is no night before to compare with.", "note")],
        charts=drawn,
    )


def _moved(head: HeadSpec, night: NightStats, before: NightStats | None) -> list[str]:
    then, now = before.bins.get(head.name) if before else None, night.bins.get(head.name)
    return [] if then is None or now is None else head.moved(now, then)


def _failures(night: NightStats, before: NightStats | None, images: Mapping[Key, str]) -> Section:
    if not night.failed:
        return Section(title="Failures", lines=[Line("None.", "good")])
    rows = []
    for code, count in night.failed.most_common():
        examples = "\n".join(
            f"{row['illust_id']} p{row['page']}: {row['error_detail']}" for row in night.failures[code]
        )
        rows.append([code, f"{count:,}", f"{before.failed[code]:,}" if before else "-", examples])
    table = TextTable(["code", "images", "night before", "for example"], rows, prose=True)
    pictures = [
        Picture(f"{row['illust_id']} p{row['page']}", image, [code])
        for code, _ in night.failed.most_common()
        for row in night.failures[code]
        if (image := images.get((row["illust_id"], row["page"])))
    ]
    galleries = [Gallery("Failed then, and can be seen now", pictures)] if pictures else []
    return Section(title="Failures", tables=[table], galleries=galleries)


def _rate(manifest: Mapping[str, Any]) -> list[Section]:
    """How busy each stage of the run was; nothing for a run that scored nothing."""
    account = manifest.get("account") or {}
    stages: Mapping[str, Mapping[str, float]] = account.get("stages") or {}
    if not stages:
        return []
    rows = [
        [
            name,
            f"{stage['busy_s']:,.1f}",
            f"{stage['share']:.0%}",
            f"{stage['images_per_s']:,.0f}" if "images_per_s" in stage else "-",
        ]
        for name, stage in stages.items()
    ]
    table = TextTable(["stage", "busy s", "of its slots' time", "images/s alone"], rows)
    return [
        Section(
            title="What limited the run", lines=[Line(str(account.get("limiting_stage", "")))], tables=[table]
        )
    ]


def _picture(row: Mapping[str, Any], heads: Sequence[HeadSpec], images: Mapping[Key, str]) -> Picture:
    lines = [head.caption(row) for head in heads]
    return Picture(
        f"{row['illust_id']} p{row['page']}", images.get((row["illust_id"], row["page"]), ""), lines
    )


def _extremes(head: HeadSpec, night: NightStats, images: Mapping[Key, str]) -> Section:
    galleries = [
        Gallery(
            f"{end.capitalize()} score",
            [_picture(row, [head], images) for row in night.extremes.get((head.name, end), [])],
        )
        for end in ("highest", "lowest")
    ]
    return Section(title=head.name, galleries=galleries)


def _search(night: NightStats, images: Mapping[Key, str]) -> Section:
    pictures = [_picture(row, night.heads, images) for row in night.drawn]
    note = f"A random {len(pictures)} of {night.rows:,}. Any other row: pix2score.read_scores."
    return Section(
        title="A look at the rest", galleries=[Gallery("Random images", pictures, note, search=True)]
    )
