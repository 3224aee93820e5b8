"""demo: draws a catalog and runs the real stages on it, one after the other, as the jobs do. No special
path."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pix2score.cli.packages import missing
from pix2score.cli.summary import recorded
from pix2score.cluster.session import session
from pix2score.dataset.card import open_dataset
from pix2score.demo.catalog import draw_catalog
from pix2score.demo.config import DemoConfig
from pix2score.demo.second_night import pass_a_day
from pix2score.errors import DataError
from pix2score.evaluate.config import EvaluateConfig
from pix2score.evaluate.job import evaluate
from pix2score.evaluate.texts import table_text
from pix2score.nightly.request import REASONS
from pix2score.prepare.config import PrepareConfig
from pix2score.prepare.job import prepare
from pix2score.report.config import ReportConfig
from pix2score.report.job import report
from pix2score.report.page import NEEDED as PAGE_PACKAGES
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score
from pix2score.snapshots.changes import read_changes
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.manifest import live
from pix2score.snapshots.verify import verify
from pix2score.storage.folder import Folder
from pix2score.summaries import EvaluateSummary, PrepareSummary, ScoreSummary, TrainSummary
from pix2score.train.job import TrainConfig, train

logger = logging.getLogger(__name__)
Say = Callable[[str], None]
SERVE_PACKAGES = ("fastapi", "multipart")


def demo(config: DemoConfig, say: Say) -> dict[str, Any]:
    """Make catalog, dataset, model and a verified snapshot below ``config.out``; return their numbers.

    ``say`` gets what a person should read, line by line. Raises ``DataError`` if ``out`` already holds a
    demo.
    """
    root = Path(config.out).absolute()
    if (root / "catalog").exists():
        raise DataError(f"{root} already holds a demo; remove it, or give another --out")
    places = {name: str(root / name) for name in ("catalog", "dataset", "model", "evaluation", "scores")}
    with session(), recorded(Folder(str(root)), "summary.json", {"job": "demo", "out": str(root)}) as summary:
        _draw(root / "catalog", config, say)
        summary["prepare"] = _prepare(places, say)
        summary["train"] = _train(places, config, say)
        summary["evaluate"] = _evaluate(places, say)
        summary["score"] = _score(places, say)
        summary["verify"] = verify(VerifyConfig(scores=places["scores"], catalog=places["catalog"]))
        say("6. verify: every file as its manifest says, every catalog key exactly once")
        summary["second_night"] = _second_night(places, config, say)
    _show(root, say)
    _say_next(root, say)
    facts = {name: summary["score"][name] for name in ("model_version", "scored", "failed")}
    facts |= {"snapshot": summary["second_night"]["snapshot"], "carried": summary["second_night"]["carried"]}
    return {"job": "demo", "out": str(root), **facts, "seconds": summary["seconds"]}


def _draw(folder: Path, config: DemoConfig, say: Say) -> None:
    folder.mkdir(parents=True)
    drawn = draw_catalog(folder, num_pictures=config.num_pictures, seed=config.seed)
    say(f"1. drew a catalog of {drawn.num_rows} rows in {folder}, as {_listed(drawn.formats)}")
    say(f"   and on purpose: {_listed(drawn.broken)}, an older row of one picture, a row without an id")


def _prepare(places: Mapping[str, str], say: Say) -> PrepareSummary:
    # Fifths for val and test: a twentieth of so few pictures would measure nothing.
    result = prepare(
        PrepareConfig(
            catalog=places["catalog"],
            out=places["dataset"],
            image_size=96,
            val_fraction=0.15,
            test_fraction=0.25,
        )
    )
    dropped = {
        name: n
        for name, n in result["dropped"].items()
        if name in ("null_id", "duplicate_key", "over_max_pages") and n
    }
    say(
        f"2. prepare: {_listed(result['rows'])} images; left out: "
        f"{_listed(dropped | result['dropped']['failed_images'])}"
    )
    return result


def _train(places: Mapping[str, str], config: DemoConfig, say: Say) -> TrainSummary:
    result = train(
        TrainConfig(
            data=places["dataset"],
            out=places["model"],
            backbone="resnet18",
            input_size=64,
            batch_size=32,
            epochs=config.epochs,
            seed=config.seed,
        )
    )
    say(
        f"3. train: resnet18 at 64 px, model {result['model_version']}, best of {config.epochs} epochs: "
        f"{result['epoch']}"
    )
    return result


def _evaluate(places: Mapping[str, str], say: Say) -> EvaluateSummary:
    result = evaluate(EvaluateConfig(model=places["model"], data=places["dataset"], out=places["evaluation"]))
    heads, metrics = open_dataset(places["dataset"]).heads, result["metrics"]
    say(
        "4. evaluate: on the test split, by artists never seen in training; in brackets what the best "
        "constant answer gets"
    )
    say(table_text(heads, metrics))
    say(
        "   main: 1 is perfect, 0 is chance (spearman: rank correlation with the count; kappa: agreement on "
        "the level)."
    )
    better = [head.name for head in heads if metrics[head.name]["nll"] < metrics[head.name]["prior_nll"]]
    say(
        "   NLL and MAE: lower is better. The model knows more than the constant about: "
        f"{', '.join(better) or 'nothing'}."
    )
    return result


def _score(places: Mapping[str, str], say: Say) -> ScoreSummary:
    result = score(ScoreConfig(catalog=places["catalog"], model=places["model"], out=places["scores"]))
    rate = f"{result['images_per_s']:.0f} images/s with start-up"
    say(f"5. score: snapshot {result['snapshot']} with {result['scored']} rows ({rate})")
    say(f"   failed, as drawn: {_listed(result['failed_by_code'])}")
    return result


def _second_night(places: Mapping[str, str], config: DemoConfig, say: Say) -> ScoreSummary:
    day = pass_a_day(Path(places["catalog"]), seed=config.seed)
    since = live(places["scores"]).number
    say(
        f"7. a day passes: {day.new} pictures are new, {day.changed} changed, {day.removed} removed, "
        f"{day.repaired} broken ones repaired"
    )
    result = score(ScoreConfig(catalog=places["catalog"], model=places["model"], out=places["scores"]))
    counts: Mapping[str, Any] = result
    reasons = _listed({name: counts[name] for name in REASONS if counts[name]})
    rest = f"{result['carried']} carried over as they were, {result['removed']} removed"
    say(f"   second night: {result['scored']} scored ({reasons}), {rest}")
    changes = Counter(read_changes(places["scores"], since).read_all().column("change").to_pylist())
    say(f"   read_changes(since={since}) gives a recommender just these: {_listed(changes)}")
    verify(VerifyConfig(scores=places["scores"], catalog=places["catalog"]))
    say("   verify: again every file as its manifest says, every catalog key exactly once")
    return result


def _listed(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in numbers.items()) or "none"


def _show(root: Path, say: Say) -> None:
    """The second night as a page, if this machine has what draws it."""
    if not missing(PAGE_PACKAGES):
        report(ReportConfig(scores=str(root / "scores"), out=str(root / "report.html")))
        say(
            f"8. report: the night with its pictures, {_shortest(root / 'report.html')}: open it in a browser"
        )


def _say_next(root: Path, say: Say) -> None:
    python = _shortest(Path(sys.executable))
    scores, catalog, model, page = (
        _shortest(root / name) for name in ("scores", "catalog", "model", "report.html")
    )
    columns = "['illust_id', 'status', 'bookmark_bin', 'bookmark_expected', 'sanity_bin', 'error_code']"
    say("\nNext:")
    say(
        f"  {python} -c \"import pix2score; print(pix2score.read_scores('{scores}').head(8, "
        f'columns={columns}).to_pandas())"'
    )
    say(
        f"  {python} -m jobs.score --catalog {catalog} --model {model} --out {scores}   # a third night: "
        "only what is due"
    )
    say(f"  {python} -m jobs.prepare --help   # your own catalog: see jobs/README.md")
    if missing(PAGE_PACKAGES):
        say(f"\nPictures of the night, in {page}:\n  {python} -m pip install {_extra('report')}")
        say(f"  {python} -m jobs.report --scores {scores} --out {page}")
    say("\nA page to try pictures on, at http://127.0.0.1:8000:")
    if missing(SERVE_PACKAGES):
        say(f"  {python} -m pip install {_extra('serve')}")
    say(f"  {python} -m jobs.serve --model {model} --scores {scores}\n")


def _extra(name: str) -> str:
    """What pip installs: in a checkout the checkout with that extra."""
    return (
        f"'.[{name}]'"
        if Path("pyproject.toml").exists() and Path("jobs").is_dir()
        else f"'pix2score[{name}]'"
    )


def _shortest(path: Path) -> Path:
    """The path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
