"""report: one night as one HTML file.

Counts, rate, failures, how each head's answers moved since the night before, pictures.

Streams the scores table; holds counts and a few rows, whatever the number of images.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from pix2score.catalog.keys import Key
from pix2score.catalog.originals import original_images
from pix2score.errors import DataError, ImageFailure
from pix2score.heads.spec import HeadSpec
from pix2score.images.decoder import Decoder
from pix2score.images.preprocess import Preprocess
from pix2score.report import charts
from pix2score.report.config import ReportConfig
from pix2score.report.night import NightStats, psi
from pix2score.report.page import (
    Chart,
    Gallery,
    Line,
    Picture,
    Section,
    TextTable,
    check_packages,
    encoded,
    page,
    short_labels,
)
from pix2score.snapshots.manifest import Snapshot, live, read_snapshot
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches

logger = logging.getLogger(__name__)
Drift: TypeAlias = tuple[float | None, float | None]
"""PSI against the night before of the whole table, and of what was scored this night; None where there is
nothing to compare."""
THUMBNAIL = Preprocess(size=160, resize="pad")
PSI_MOVED, PSI_DRIFTED = 0.1, 0.25  # the customary steps of the population stability index
MIN_FRESH = 300
"""Images of a night below which their distribution says nothing: 15 bins of 300 images alone give a PSI near
0.05."""


def report(config: ReportConfig) -> dict[str, Any]:
    """Write the live snapshot's report to ``config.out``; return its main facts.

    Raises ``DataError`` if there are no scores, ``ConfigError`` if the packages of a report are missing.
    """
    check_packages()
    folder, snapshot = Folder(config.scores), live(config.scores)
    night, before = _read(folder, snapshot), _before(folder, snapshot)
    drift = _drifts(night, before)
    images = _thumbnails(snapshot, night)
    out = Folder(config.out)
    size = out.parent.publish(out.name, _page(snapshot, night, before, drift, images), replace=True)
    return {
        "job": "report",
        "snapshot": snapshot.number,
        "rows": night.rows,
        "failed": night.failed.total(),
        "psi": {name: both[0] for name, both in drift.items()},
        "psi_scored_this_night": {name: both[1] for name, both in drift.items()},
        "bytes": size,
    }


def _read(folder: Folder, snapshot: Snapshot) -> NightStats:
    heads = snapshot.layout.heads
    columns = ["illust_id", "page", "status", "error_code", "error_detail", "run"]
    columns += [f"{head.name}_{name}" for head in heads for name in ("bin", "score", "expected")]
    night = NightStats(heads, snapshot.manifest["run"])
    for batch in parquet_batches(
        folder, [file.path for file in snapshot.files if file.table == "scores"], columns
    ):
        night.add(batch)
    return night


def _before(folder: Folder, snapshot: Snapshot) -> NightStats | None:
    """The parent snapshot, if it still exists and has the same heads."""
    parent = snapshot.manifest.get("parent")
    try:
        previous = read_snapshot(folder, parent) if parent else None
        same = previous is not None and previous.layout.heads == snapshot.layout.heads
        return _read(folder, previous) if previous and same else None
    except (DataError, FileNotFoundError) as exc:  # removed by vacuum
        logger.info("no snapshot to compare with: %s", exc)
        return None


def _drifts(night: NightStats, before: NightStats | None) -> dict[str, Drift]:
    found: dict[str, Drift] = {}
    for head in night.heads:
        now, fresh = night.bins.get(head.name), night.fresh.get(head.name)
        then = before.bins.get(head.name) if before else None
        if now is None or fresh is None or then is None:
            found[head.name] = (None, None)
        else:
            found[head.name] = (
                round(psi(now, then), 4),
                round(psi(fresh, then), 4) if fresh.sum() >= MIN_FRESH else None,
            )
    return found


def drift_sentence(what: str, value: float) -> Line:
    """What a PSI means, in words."""
    if value < PSI_MOVED:
        return Line(f"{what}: as the night before (PSI {value:.3f}).", "good")
    if value < PSI_DRIFTED:
        return Line(f"{what}: moved a little since the night before (PSI {value:.3f}). Worth a look.")
    text = (
        f"{what}: drifted (PSI {value:.3f}): other images, another model, or something broke. Look before "
        "you use these scores."
    )
    return Line(text, "bad")


def _drift_lines(night: NightStats, drift: Mapping[str, Drift]) -> list[Line]:
    """Of the whole table; and of what was scored this night, where that says something else."""
    lines = []
    for name, (whole, fresh) in drift.items():
        if whole is not None:
            lines.append(drift_sentence(name, whole))
        if fresh is not None and fresh >= PSI_MOVED and fresh != whole:
            lines.append(
                drift_sentence(f"{name}, the {night.fresh[name].sum():,} images scored this night", fresh)
            )
    return lines


def _thumbnails(snapshot: Snapshot, night: NightStats) -> dict[Key, str]:
    """Pictures of the rows that the page shows, as far as they still exist and decode.

    They are decoded in a child process.
    """
    shown = [
        *night.drawn,
        *(row for rows in [*night.extremes.values(), *night.failures.values()] for row in rows),
    ]
    keys = list(dict.fromkeys((row["illust_id"], row["page"]) for row in shown))
    if "catalog" not in snapshot.manifest:
        return {}
    decode, found = Decoder(THUMBNAIL), {}
    for key, content in original_images(
        snapshot.manifest["catalog"]["uri"], snapshot.manifest["config"], keys
    ).items():
        try:
            if isinstance(content, bytes):
                found[key] = encoded(_jpeg(decode(content)))
        except ImageFailure as failure:
            logger.info("no picture of %s: %s", key, failure)
    decode.close()
    return found


def _jpeg(pixels: bytes) -> bytes:
    out = io.BytesIO()
    Image.frombytes("RGB", (THUMBNAIL.size, THUMBNAIL.size), pixels).save(out, "JPEG", quality=80)
    return out.getvalue()


def _page(
    snapshot: Snapshot,
    night: NightStats,
    before: NightStats | None,
    drift: Mapping[str, Drift],
    images: Mapping[Key, str],
) -> bytes:
    manifest = snapshot.manifest
    plan, rate = (
        {**manifest.get("counts", {}), **manifest.get("plan", {})},
        (manifest.get("account") or {}).get("images_per_s"),
    )
    facts = {
        "illustrations": f"{night.rows:,}",
        "failed": f"{night.failed.total():,} ({night.failed.total() / max(1, night.rows):.1%})",
        **{
            name: f"{plan[name]:,}"
            for name in ("new", "changed", "stale", "retry", "carried", "removed")
            if name in plan
        },
        **({"images/s": f"{rate:,.0f}"} if rate else {}),
        "model": manifest["model_version"],
        "preprocessing": manifest.get("preprocess_id", "-"),
    }
    against = f", compared with snapshot {manifest['parent']}" if before else ""
    lead = [f"Published {manifest.get('published_at', '-')} by run {manifest['run']}{against}."]
    sections = [_drift(night, before, drift), _failures(night, before, images), *_rate(manifest)]
    sections += [_extremes(head, night, images) for head in night.heads]
    sections.append(_search(night, images))
    return page(
        f"Scores, snapshot {snapshot.number}",
        lead,
        facts,
        sections,
        f"Catalog: {manifest.get('catalog', {}).get('uri', '-')}",
    )


def _shares(counts: npt.NDArray[np.int64]) -> list[float]:
    return [float(share) for share in counts / max(1, counts.sum())]


def _drift(night: NightStats, before: NightStats | None, drift: Mapping[str, Drift]) -> Section:
    drawn = []
    for head in night.heads:
        if head.name not in night.bins:
            continue
        series = {"all, this night": _shares(night.bins[head.name])}
        if before and head.name in before.bins:
            series["all, night before"] = _shares(before.bins[head.name])
        total, fresh = int(night.bins[head.name].sum()), int(night.fresh[head.name].sum())
        if 0 < fresh < total:
            series["scored this night"] = _shares(night.fresh[head.name])
        caption = f"{head.name}: share of images by predicted bin; {fresh:,} of {total:,} scored this night."
        drawn.append(Chart(charts.bars(short_labels(head), series), caption))
    return Section(
        title="Predictions",
        lines=_drift_lines(night, drift) or [Line("There is no night before to compare with.", "note")],
        charts=drawn,
    )


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
    lines = [
        f"{head.name} {short_labels(head)[row[f'{head.name}_bin']]}, score {row[f'{head.name}_score']:.2f}"
        for head in heads
    ]
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
