"""The pages: their Python runs as printed, their commands and flags are the jobs' own, and every file, link
and name that they mention exists."""

from __future__ import annotations

import base64
import importlib
import io
import json
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

import jobs
import pix2score
from pix2score.cli.flags import resolve
from pix2score.cli.settings import WHOLE
from tests.conftest import free_port
from tests.support.paths import ROOT
from tests.test_rooms import ROOMS

if TYPE_CHECKING:  # its torch and Ray are for the tests that run something
    from tests.support.chain import Chain

FOLDERS = ("jobs", "pix2score", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
every_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
MAX_WIDTH, MAX_README_LINES = 110, 150
FOREIGN_FLAGS = {"--help", "--config", "--shm-size", "--head", "--no-deps", "--working-dir", "--part"}
"""Flags of all jobs, of Docker, Ray, pip and our pytest."""
SOME_ID = "10002868"
"""In the pages; another catalog has other ids."""


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of one language, without their fences."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def spans(page: Path) -> list[str]:
    """What stands in backticks in the prose."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


# Form


@every_page
def test_lines_are_at_most_110_wide(page: Path) -> None:
    assert not [
        (number, len(line))
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if len(line) > MAX_WIDTH
    ]


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README_LINES


# What the pages mention


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@every_page
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", prose(page)) if not t.startswith("http")]
    broken = []
    for target in targets:
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert not broken


@every_page
def test_every_path_of_the_repository_exists(page: Path) -> None:
    paths = [span for span in spans(page) if is_path(span)]
    assert not [path for path in paths if not (ROOT / path).exists() and not (page.parent / path).exists()]


def is_path(span: str) -> bool:
    """Whether it names a file or folder of the repository; one with a capital X or a star stands for many."""
    below = re.fullmatch(r"(?:jobs|pix2score|tests|\.ci)/[\w./-]*", span)
    return bool(below or re.fullmatch(r"[\w/-]+\.(?:py|md|yaml)", span)) and not re.search(r"\bX\b", span)


@every_page
def test_every_name_of_the_package_exists(page: Path) -> None:
    names = {span for span in spans(page) if re.fullmatch(r"pix2score(?:\.\w+)+", span)}
    assert not [name for name in sorted(names) if not is_name(name)]


def is_name(name: str) -> bool:
    """Whether a dotted name is that of a module, or of something in one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True


def test_the_table_of_rooms_is_the_list_of_the_import_rule() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|", (ROOT / "pix2score" / "README.md").read_text(), re.MULTILINE)
    assert rows == ROOMS


def test_the_operators_page_lists_every_job() -> None:
    table = "\n".join(re.findall(r"^\| (`.*?) \|", (ROOT / "jobs" / "README.md").read_text(), re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", table)) == set(JOBS)


# Commands and flags

JOBS = [module.name for module in pkgutil.iter_modules(jobs.__path__) if not module.name.startswith("_")]


def config_of(job: str) -> type[Any]:
    """The settings of a job: a class named for it in a ``config.py`` or ``…_config.py``."""
    for path in sorted(ROOT.glob("pix2score/*/*config.py")):
        module = importlib.import_module(f"pix2score.{path.parent.name}.{path.stem}")
        if found := getattr(module, f"{job.title()}Config", None):
            return found  # type: ignore[no-any-return]
    raise AssertionError(f"no config.py has the settings of jobs.{job}")


def flags_of(config: type[Any], prefix: str = "") -> Iterator[str]:
    """Names of all flags, ``--columns.id`` and the like among them."""
    hints = get_type_hints(config)
    for field in fields(config):
        if is_dataclass(hints[field.name]):
            yield from flags_of(hints[field.name], f"{prefix}{field.name}.")  # type: ignore[arg-type]
        else:
            name = prefix.rstrip(".") if WHOLE in field.metadata else f"{prefix}{field.name}"
            yield f"--{name}".replace("_", "-")


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Job and words of every command of ours in the page's shell blocks."""
    lines = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    found = [re.search(r"(?:python -m jobs\.|(?:^|\s)pix2score )(\w+)(.*)", line) for line in lines]
    return [(match[1], shlex.split(match[2], comments=True)) for match in found if match]


@every_page
def test_every_command_is_one_that_the_job_accepts(page: Path) -> None:
    for job, words in commands(page):
        example = str(ROOT / "jobs" / "examples" / f"{job}.toml")
        given = [example if before == "--config" else word for before, word in pairwise(["", *words])]
        assert resolve(config_of(job), given)


def test_commands_are_found_at_all() -> None:
    assert {"prepare", "train", "score"} <= {job for job, _ in commands(ROOT / "README.md")}
    assert len({job for page in PAGES for job, _ in commands(page)}) == len(JOBS)


@every_page
def test_every_flag_in_the_text_exists(page: Path) -> None:
    known = {job: set(flags_of(config_of(job))) | FOREIGN_FLAGS for job in JOBS}
    anywhere = set().union(*known.values())
    unknown = []
    for span in spans(page):
        job = re.match(rf"(?:.*jobs\.|pix2score )?({'|'.join(JOBS)})\b", span)
        flags = re.findall(r"(?<![\w-])--[a-z][\w.-]*", span)
        unknown += [(span, flag) for flag in flags if flag not in (known[job[1]] if job else anywhere)]
    assert not unknown


@every_page
def test_every_toml_block_is_a_configuration_of_prepare(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "toml"):
        (tmp_path / "config.toml").write_text(text)
        words = ["--catalog=c", "--out=o", f"--config={tmp_path / 'config.toml'}"]
        heads = resolve(config_of("prepare"), words).head_specs()
        assert [head.name for head in heads] == [table["name"] for table in tomllib.loads(text)["heads"]]


# Python as printed


def picture(mode: str) -> Image.Image:
    """Random blocks, 80 px wide and 60 high."""
    blocks_HWC = np.random.default_rng(3).integers(0, 256, (15, 20, len(mode)), dtype=np.uint8)
    return Image.fromarray(blocks_HWC.repeat(4, axis=0).repeat(4, axis=1))


@pytest.fixture(scope="module")
def demo(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the pages assume it: with the output of a demo, an exported model and two pictures."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "pix2score-demo").mkdir()
    for name, place in (("model", chain.model), ("catalog", chain.catalog)):
        (folder / "pix2score-demo" / name).symlink_to(place)
    shutil.copytree(chain.scores, folder / "pix2score-demo/scores")  # one page adds a night
    for name in ("a.png", "b.jpg"):
        picture("RGB").save(folder / name)
    return folder


CODE = [
    pytest.param(code, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, code in enumerate(blocks(page, "python"))
    if "serve_forever" not in code
]


@pytest.mark.parametrize("code", CODE)
def test_python_runs_as_printed(chain: Chain, demo: Path, code: str) -> None:
    ok = pix2score.read_scores(chain.scores).to_table().filter(pc.field("status") == "ok").to_pylist()
    some_id = str(next(row["illust_id"] for row in ok if row["page"] == 0))
    # The bound printed suits a trained model; half of the rows are below the one that replaces it here.
    unsafe = [row["sanity_probs"][3] + row["sanity_probs"][4] for row in ok]
    bound = round(float(np.median(unsafe)), 6)
    code = code.replace("< 0.2", f"< {bound}")
    done = subprocess.run(
        [sys.executable, "-c", code.replace(SOME_ID, some_id)],
        capture_output=True,
        text=True,
        cwd=demo,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if "0.7 *" in code:  # the ranking of a recommender
        safe = [row for row, share in zip(ok, unsafe, strict=True) if share < bound]
        best = max(safe, key=lambda row: 0.7 * row["bookmark_score"] + 0.3 * row["view_score"])
        assert str(best["illust_id"]) in first_row(done.stdout)
    if SOME_ID in code:
        assert some_id in first_row(done.stdout)


def test_each_way_of_reading_scores_is_shown_and_run() -> None:
    shown = "".join(str(case.values[0]) for case in CODE)
    ways = (
        "duckdb.sql",
        "read_parquet",
        "polars",
        "read_scores",
        "read_embeddings",
        "read_changes",
        "similar(",
    )
    assert not [way for way in (*ways, "Model.load") if way not in shown]
    assert len(re.findall(r"0\.7 \*", shown)) == 2  # by DuckDB and by Polars


def first_row(output: str) -> str:
    """Of a printed table: the first line with an id."""
    return next(line for line in output.splitlines() if re.search(r"\d{5}", line))


@pytest.mark.slow
def test_the_server_answers_base64_with_the_models_numbers(chain: Chain, demo: Path) -> None:
    from pix2score.serve.config import ExportConfig
    from pix2score.serve.export import export
    from pix2score.serve.model import Answer, Model

    export(ExportConfig(model=chain.model, out=str(demo / "model.onnx")))
    (code,) = [code for page in PAGES for code in blocks(page, "python") if "serve_forever" in code]
    port = free_port()
    server = subprocess.Popen([sys.executable, "-c", code.replace("8080", str(port))], cwd=demo)
    try:
        out = io.BytesIO()
        picture("RGBA").save(out, "PNG")
        request = json.dumps({"image": base64.b64encode(out.getvalue()).decode()}).encode()
        answer = json.loads(post(f"http://127.0.0.1:{port}", request, server))
    finally:
        server.terminate()
        server.wait(timeout=10)
    (wanted,) = Model.load(chain.model).predict([out.getvalue()])
    assert isinstance(wanted, Answer)
    assert answer["bookmark_predict"]["0"] == "0-10"
    np.testing.assert_allclose(answer["bookmark_probs"], wanted.heads["bookmark"]["probs"], atol=1e-3)


def post(url: str, body: bytes, server: subprocess.Popen[bytes]) -> bytes:
    """The answer of a server that is about to listen."""
    for _ in range(100):
        assert server.poll() is None, "the server ended by itself"
        try:
            with urllib.request.urlopen(url, data=body, timeout=30) as response:
                return bytes(response.read())
        except urllib.error.URLError:
            time.sleep(0.2)
    raise AssertionError("the server did not answer")
