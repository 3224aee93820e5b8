"""What each job returns to Python, prints as its line of JSON and writes as summary.json: one type per job.

Plain dictionaries at run time, so that a summary is its own JSON. A job that ends by an exception leaves what
it had by then as the exception's ``summary``.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

ByHead = dict[str, dict[str, Any]]
"""Head -> numbers by name."""


class PrepareSummary(TypedDict):
    """Of ``prepare``."""

    job: str
    out: str
    rows: dict[str, int]
    """By split."""
    bins: dict[str, Any]
    """By head, what it learnt of its labels: the number of bins, classes or tags, or rows of each answer."""
    dropped: dict[str, Any]
    """Rows left out, by reason; ``failed_images`` by error code."""
    shards: int
    seconds: float


class TrainSummary(TypedDict):
    """Of ``train``."""

    job: str
    out: str
    model_version: str
    backbone: str
    epoch: int
    """The one that is saved, from 1."""
    val_loss: float
    """Over heads: 1 is the best constant answer."""
    skipped_steps: int
    val: ByHead
    """Validation metrics."""
    teacher: NotRequired[dict[str, Any]]
    seconds: NotRequired[float]
    """Absent where the model was there already."""


class EvaluateSummary(TypedDict):
    """Of ``evaluate``."""

    job: str
    model_version: str
    dataset_id: str
    split: str
    metrics: ByHead
    compared_with: NotRequired[str]
    """Version of the model of ``compare``; with it the next two."""
    comparison: NotRequired[ByHead]
    is_better: NotRequired[bool]
    engine: NotRequired[dict[str, Any]]
    """As of ``score``: of the model, not of ``compare``."""
    config: dict[str, Any]
    seconds: float


class ScoreSummary(TypedDict):
    """Of ``score``: ``planned`` = ``scored`` + ``limited`` + ``left``."""

    job: str
    run: str
    model_version: str
    """With the engine behind a ``+``, where it has fewer bits."""
    engine: NotRequired[dict[str, Any]]
    """Where fewer bits were asked for: ``name`` of the one that answered, ``runtime``, and ``changes``, by
    head how far answers are from float32's."""
    snapshot: int | None
    """The one that is live by this run, or was where nothing was to do; None where nothing is published."""
    planned: int
    new: int
    changed: int
    stale: int
    heads: int
    retry: int
    full: int
    waiting: int
    """These seven say why rows were planned; ``waiting``: they were pending."""
    pending: int
    """Rows of the snapshot that are not scored yet."""
    carried: int
    removed: int
    resumed: int
    scored: NotRequired[int]
    """Absent, with the next three, after a dry run."""
    limited: NotRequired[int]
    left: NotRequired[int]
    """Planned rows that were not done, as the time was up."""
    staged: NotRequired[int]
    """This and the next three of a run that only stages: rows that are done."""
    left_s: NotRequired[float | None]
    left_runs: NotRequired[int | None]
    done_at: NotRequired[str | None]
    """When what is left will be done at this rate, as ISO 8601."""
    failed: NotRequired[int]
    failed_by_code: NotRequired[dict[str, int]]
    answered: NotRequired[dict[str, Any]]
    """From stored embeddings: ``rows``, ``seconds`` and ``rows_per_s``."""
    drift: NotRequired[dict[str, float]]
    """Head -> PSI of the whole table since the live snapshot, of the heads that were compared."""
    repeated: NotRequired[dict[str, int]]
    """Of images that share one content."""
    images_per_s: NotRequired[float]
    bytes: NotRequired[int]
    """Fetched."""
    stages: NotRequired[dict[str, Any]]
    """Busy seconds by stage, and their share of the slots' time."""
    limiting_stage: NotRequired[str]
    dry_run: NotRequired[bool]
    to_score: NotRequired[int]
    bytes_to_fetch: NotRequired[int | None]
    bytes_to_write: NotRequired[int]
    estimated_seconds: NotRequired[float | None]
    began_at: float
    """Seconds since 1970."""
    stages_s: dict[str, float]
    """Seconds by step of the run."""
    seconds: float


class VerifySummary(TypedDict):
    """Of ``verify``."""

    job: str
    snapshot: int
    model_version: str
    rows: int
    failed: int
    pending: int
    files: int


class VacuumSummary(TypedDict):
    """Of ``vacuum``."""

    job: str
    snapshots_removed: int
    files_removed: int
    bytes_removed: int
    files_compacted: int
    seconds: float


class IndexSummary(TypedDict):
    """Of ``index``."""

    job: str
    snapshot: int
    rows: int
    """Live ones, all of them in the index."""
    added: int
    """Of them, those that were not taken up from an earlier index; 0 where there was one already."""
    gone: int
    """Rows of it that are no longer live, and still take disk."""
    recall: float
    """Share of the ten nearest that it finds."""
    library: str
    bytes: int
    seconds: float


class DuplicatesSummary(TypedDict):
    """Of ``duplicates``."""

    job: str
    out: str
    snapshot: int
    threshold: float
    rows: int
    """Live embeddings that were compared."""
    groups: int
    images: int
    """In groups."""
    largest: int
    """Images of the largest group."""
    indexed: bool
    """Whether an index named the candidates, rather than every pair being compared."""
    seconds: float


class PushSummary(TypedDict):
    """Of ``push``."""

    job: str
    run: str
    to: str
    """The target, without its password."""
    snapshot: int
    """Of which its rows are now."""
    since: int | None
    """Of which they were before; None if that is not known, or not of one alone."""
    upserted: int
    """Rows sent."""
    deleted: int | None
    """Keys whose rows are not in it now; None where all others than those sent were deleted."""
    batches: int
    whole: bool
    """Every row was sent, not only those that changed."""
    resumed: bool
    """It went on where another push had ended."""
    dry_run: bool
    """Nothing was sent."""
    seconds: float


class SimilarSummary(TypedDict):
    """Of ``jobs.similar``."""

    job: str
    snapshot: int
    questions: int
    indexed: bool
    """Whether an index answered, rather than a pass over every embedding."""
    failed: NotRequired[int]
    """Images that gave no embedding."""
    seconds: float


class ReportSummary(TypedDict):
    """Of ``report``."""

    job: str
    snapshot: int
    rows: int
    failed: int
    pending: int
    psi: dict[str, Any]
    """By head, of the whole table against the night before."""
    psi_scored_this_night: dict[str, Any]
    bytes: int
    """Of the page."""


class ExportSummary(TypedDict):
    """Of ``export``."""

    job: str
    model_version: str
    preprocess_id: str
    out: str
    """The file, or with ``engine`` the model's folder."""
    bytes: int
    outputs: list[str]
    """Names in the file; none with ``engine``."""
    int8: NotRequired[dict[str, Any]]
    """How far the answers of the smaller network are from those of the model."""


class RefitSummary(TypedDict):
    """Of ``refit``."""

    job: str
    out: str
    model_version: str
    trunk_version: str
    refitted_version: str
    """Of the model whose trunk it has."""
    snapshot: int
    """Whose embeddings were learnt from."""
    rows: dict[str, int]
    """With a label and an embedding, by split."""
    penalties: dict[str, float]
    """Head -> strength that validation likes best."""
    val: ByHead
    test: ByHead
    """Of the new heads on rows that nothing was learnt from."""
    test_before: ByHead
    """Of the old ones, those of the same name and kind, on the same labels."""
    seconds: float


class PublishSummary(TypedDict):
    """Of ``publish``."""

    job: str
    run: NotRequired[str]
    """Absent where the files were live already."""
    snapshot: int
    restored_from: int | None
    model_version: str
    rows: int
    failed: int
    files: int
    bytes: int
    seconds: float


class HistorySummary(TypedDict):
    """Of ``history``."""

    job: str
    live: int
    num_snapshots: int
    snapshots: list[dict[str, Any]]
    """Newest first: number, time, model, run, counts, drift, note, what it was made of."""
    seconds: float


class RepairSummary(TypedDict):
    """Of ``repair``."""

    job: str
    out: str
    model_version: str
    repaired_version: str
    """Of the model that was repaired."""
    num_broken: int
    """Statistics that were not finite."""
    num_images: int
    val: ByHead
    seconds: float


class EnsembleSummary(TypedDict):
    """Of ``ensemble``."""

    job: str
    out: str
    model_version: str
    shares: dict[str, list[float]]
    """Head -> share of each model."""
    val: ByHead
    config: dict[str, Any]
    seconds: float


class AlignSummary(TypedDict):
    """Of ``align``."""

    job: str
    out: str
    head: str
    model_version: str
    dataset_id: str
    method: str
    reference: str | None
    split: str
    sources: ByHead
    """Source -> its line k y + b, with intervals."""
    all: dict[str, float]
    """Of all sources together, before and after."""
    config: NotRequired[dict[str, Any]]
    seconds: float


class CompareSummary(TypedDict):
    """Of ``compare``."""

    job: str
    out: str
    dataset_id: str
    split: str
    runs: list[dict[str, Any]]
    references: ByHead
    seconds: float


class KpiSummary(TypedDict):
    """Of ``kpi``: of a fit, or of ``apply``."""

    job: str
    out: str
    kpi_version: str
    labels: NotRequired[dict[str, Any]]
    target: NotRequired[str]
    best: NotRequired[str]
    """Of the models, by validation."""
    rows: Any
    """By split; with ``apply`` how many were written."""
    test: NotRequired[dict[str, Any]]
    run: NotRequired[str]
    snapshot: NotRequired[int]
    model_version: NotRequired[str]
    parts: NotRequired[int]
    seconds: float


class PseudoSummary(TypedDict):
    """Of ``pseudo``."""

    job: str
    out: str
    snapshot: int
    model_version: str
    head: str
    rows: dict[str, int]
    """How many were chosen, and why others were not."""
    classes: dict[str, int]
    config: dict[str, Any]
    seconds: float


class CatalogSummary(TypedDict):
    """Of ``catalog``."""

    job: str
    out: str
    images: str
    rows: dict[str, int]
    """``pictures`` in all; of them ``new``, ``changed`` (another fingerprint), ``updated`` (other labels) and
    ``unchanged`` since the last run; and ``removed``."""
    left_out: dict[str, int]
    """Why names at the place are no rows: reason -> how many."""
    labels: NotRequired[dict[str, dict[str, int]]]
    """By source (folder, table, text) how many rows have one, and what had no match. Not of archives."""
    texts: NotRequired[dict[str, int]]
    """With ``tags_from_text``: how many were ``read``, and of how many the tags are those that an earlier run
    ``kept``. Not of archives."""
    archives: NotRequired[dict[str, Any]]
    """How many were read and how many were known; ``damaged``: which were left out, and why."""
    next: str
    """The command that scores what the catalog lists."""
    config: dict[str, Any]
    seconds: float


class ServeSummary(TypedDict):
    """Of ``serve``, when it was told to end."""

    job: str
    model_version: str
    url: str
    deployments: int
    """How often a model was put in place: 1, and one more for each SIGHUP that did so."""
    seconds: float


class AscendSummary(TypedDict):
    """Of ``ascend``."""

    job: str
    model_version: str
    head: str
    config: dict[str, Any]
    images: list[dict[str, Any]]
    seconds: float
